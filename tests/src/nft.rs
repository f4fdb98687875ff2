//! What kube-proxy programmed, read from the text of `nft list ruleset`: enough of the language for
//! the rules that it writes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};

/// One table of rules.
#[derive(Clone, Debug, Default)]
pub struct Ruleset {
    /// Sets with their elements.
    pub sets: BTreeMap<String, BTreeSet<String>>,
    /// The timeout of the sets that have one, as the text has it.
    pub timeouts: BTreeMap<String, String>,
    /// Verdict maps: element and verdict, comments left out.
    pub maps: BTreeMap<String, BTreeMap<String, String>>,
    /// Chains with their rules, comments of chains left out.
    pub chains: BTreeMap<String, Vec<String>>,
}

/// Where a packet comes from, as far as the rules ask.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Source {
    /// An address of the cluster's pods.
    Pod,
    /// An address of this node.
    Node,
    /// Any other.
    Outside,
}

/// Where a new flow goes.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Fate {
    /// To one of these, as address and port.
    To(BTreeSet<String>),
    /// Refused.
    Reject,
    /// Dropped.
    Drop,
}

impl Ruleset {
    /// Reads the text of one table.
    pub fn parse(text: &str) -> Result<Self> {
        let mut ruleset = Self::default();
        let mut lines = text.lines().map(str::trim);
        while let Some(line) = lines.next() {
            let Some(head) = line.strip_suffix(" {") else {
                continue;
            };
            let Some((kind, name)) = head.split_once(' ') else {
                bail!("a block without a name: {line:?}");
            };
            if kind == "table" {
                continue;
            }
            let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "}").collect();
            ruleset
                .add(kind, name, &body)
                .with_context(|| format!("{kind} {name}"))?;
        }
        Ok(ruleset)
    }

    fn add(&mut self, kind: &str, name: &str, body: &[&str]) -> Result<()> {
        match kind {
            "set" => {
                for line in body {
                    if let Some(timeout) = line.strip_prefix("timeout ") {
                        self.timeouts.insert(name.into(), timeout.into());
                    }
                }
                let elements = elements(body).into_iter().collect();
                self.sets.insert(name.into(), elements);
            }
            "map" => {
                let pairs = elements(body).into_iter().map(|element| {
                    let (key, verdict) = element.split_once(" : ").context("no verdict")?;
                    let key = key.split(" comment ").next().unwrap_or(key);
                    Ok((key.to_owned(), verdict.to_owned()))
                });
                self.maps.insert(name.into(), pairs.collect::<Result<_>>()?);
            }
            "chain" => {
                let rules = body.iter().filter(|rule| !rule.starts_with("comment "));
                let rules = rules.map(|rule| (*rule).to_owned()).collect();
                self.chains.insert(name.into(), rules);
            }
            other => bail!("{other} is not understood"),
        }
        Ok(())
    }

    /// Where a verdict sends a packet.
    pub fn follow(&self, verdict: &str, source: Source) -> Result<Fate> {
        match verdict {
            "goto reject-chain" => Ok(Fate::Reject),
            "drop" => Ok(Fate::Drop),
            _ => {
                let chain = verdict.strip_prefix("goto ").context("not understood")?;
                self.walk(chain, source)
                    .with_context(|| format!("chain {chain}"))
            }
        }
    }

    fn walk(&self, chain: &str, source: Source) -> Result<Fate> {
        let rules = self.chains.get(chain).context("no such chain")?;
        for rule in rules {
            let rule = rule.split(" comment ").next().unwrap_or(rule);
            // Marks decide about masquerading, and sets of clients about which of the same
            // endpoints it is: neither is asked here.
            if rule.contains("meta mark set") || rule.contains(" @affinity-") {
                continue;
            }
            if let Some((condition, chain)) =
                rule.split_once(" goto ").filter(|_| !rule.contains('{'))
            {
                let is_met = match condition {
                    "fib saddr type local" => source == Source::Node,
                    _ if condition.contains("saddr") => source == Source::Pod,
                    _ => bail!("{condition:?} is not understood"),
                };
                if is_met {
                    return self.follow(&["goto ", chain].concat(), source);
                }
            } else if rule.starts_with("goto ") || rule == "drop" {
                return self.follow(rule, source);
            } else if let Some((_, list)) = rule.split_once(" vmap { ") {
                let mut all = BTreeSet::new();
                for (_, verdict) in pairs(list) {
                    match self.follow(verdict, source)? {
                        Fate::To(endpoints) => all.extend(endpoints),
                        other => bail!("{other:?} among endpoints"),
                    }
                }
                return Ok(Fate::To(all));
            } else if let Some((_, list)) = rule.split_once(" map { ") {
                let endpoints = pairs(list).map(|(_, endpoint)| match endpoint.split_once(" . ") {
                    Some((address, port)) if address.contains(':') => format!("[{address}]:{port}"),
                    Some((address, port)) => format!("{address}:{port}"),
                    None => endpoint.to_owned(),
                });
                return Ok(Fate::To(endpoints.collect()));
            } else if let Some((_, endpoint)) = rule.split_once(" dnat to ") {
                return Ok(Fate::To(BTreeSet::from([endpoint.to_owned()])));
            } else {
                bail!("{rule:?} is not understood");
            }
        }
        bail!("the chain ends without a verdict")
    }
}

/// The elements of a set or map, which may go over several lines.
fn elements(body: &[&str]) -> Vec<String> {
    let text = body.join(" ");
    let Some((_, list)) = text.split_once("elements = { ") else {
        return Vec::new();
    };
    let list = list.trim_end_matches(" }");
    list.split(',').map(|it| it.trim().to_owned()).collect()
}

/// The pairs of an anonymous map: `0 : a, 1 : b }`.
fn pairs(list: &str) -> impl Iterator<Item = (&str, &str)> {
    let list = list.trim_end_matches(" }");
    list.split(", ").filter_map(|pair| pair.split_once(" : "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
table ip kube-proxy {
	comment "rules for kube-proxy"
	set cluster-ips {
		type ipv4_addr
		elements = { 10.96.0.1, 10.96.0.2,
			     10.96.0.3 }
	}
	map service-ips {
		elements = { 10.96.0.1 . tcp . 80 comment "a/b:http" : goto external-a,
			     10.96.0.2 . tcp . 80 : drop }
	}
	set affinity-a__10.0.0.1/8080 {
		timeout 2m
	}
	chain external-a {
		ip saddr 10.244.0.0/16 goto service-a comment "short-circuit pod traffic"
		fib saddr type local meta mark set meta mark | 0x00004000
		fib saddr type local goto service-a
		goto local-a
	}
	chain service-a {
		ip saddr @affinity-a__10.0.0.1/8080 goto endpoint-a
		numgen random mod 2 vmap { 0 : goto endpoint-a, 1 : goto endpoint-b }
	}
	chain local-a {
		meta l4proto tcp dnat ip to numgen random mod 1 map { 0 : 10.0.0.1 . 8080 }
	}
	chain endpoint-a {
		update @affinity-a__10.0.0.1/8080 { ip saddr }
		meta l4proto tcp dnat to 10.0.0.1:8080
	}
	chain endpoint-b {
		meta l4proto tcp dnat to 10.0.0.2:8080
	}
}
"#;

    fn to(endpoints: &[&str]) -> Fate {
        Fate::To(endpoints.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn blocks_are_read_with_their_elements_over_several_lines() {
        let ruleset = Ruleset::parse(TEXT).unwrap();
        let addresses = ["10.96.0.1", "10.96.0.2", "10.96.0.3"].map(str::to_owned);
        assert_eq!(ruleset.sets["cluster-ips"], addresses.into());
        assert_eq!(ruleset.maps["service-ips"].len(), 2);
        assert_eq!(ruleset.timeouts["affinity-a__10.0.0.1/8080"], "2m");
        assert_eq!(ruleset.chains.len(), 5);
    }

    #[test]
    fn chains_are_followed_as_the_source_decides() {
        let ruleset = Ruleset::parse(TEXT).unwrap();
        let verdict = &ruleset.maps["service-ips"]["10.96.0.1 . tcp . 80"];
        let fate = |source| ruleset.follow(verdict, source).unwrap();
        let both = to(&["10.0.0.1:8080", "10.0.0.2:8080"]);
        assert_eq!(fate(Source::Pod), both);
        assert_eq!(fate(Source::Node), both);
        assert_eq!(fate(Source::Outside), to(&["10.0.0.1:8080"]));
        let dropped = ruleset.follow("drop", Source::Outside).unwrap();
        assert_eq!(dropped, Fate::Drop);
    }
}
