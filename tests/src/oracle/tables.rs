//! What an agent's tables do, in the oracle's words: the one place where the two meet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use anyhow::{Context as _, Result, bail, ensure};
use lb_agent::dataplane::Actual;
use lb_common::flow::Protocol;
use lb_common::id::BackendId;
use lb_common::table::frontend::{FrontendKey, FrontendKind};
use lb_common::table::region::{RegionHeader, WhenEmpty};
use lb_common::table::service::{Audience, ServiceWord};

use super::{Expectation, Expected, Frontend, Kind, Network, Outcome};

/// What the tables do for every frontend and address.
pub fn seen(tables: &Actual) -> Result<Expected> {
    let mut seen = Expected::default();
    for (key, value) in &tables.frontends {
        ensure!(value.belongs_to(key), "{key:?} has the value of another");
        let kind = value.kind().context("a known kind of frontend")?;
        let address = Ipv6Addr::from(key.address()).to_canonical();
        let Some(protocol) = key.protocol() else {
            seen.addresses.insert(address, value.has_ready());
            continue;
        };
        let words = tables.services.get(&value.service_index());
        let words = *words.with_context(|| format!("{key:?} leads nowhere"))?;
        let (frontend, kind) = named(key, address, protocol, kind)?;
        let word = |audience: Audience| words[audience.position()];
        // Everybody who dials a cluster address is subject to the internal policy.
        let [inside, outside] = if kind == Kind::ClusterIp {
            [word(Audience::Internal); 2]
        } else {
            [word(Audience::Inside), word(Audience::External)]
        };
        let (inside, affinity_seconds) = outcome(tables, inside)?;
        let (outside, of_outside) = outcome(tables, outside)?;
        ensure!(
            affinity_seconds == of_outside,
            "{key:?} has two affinities: {affinity_seconds} and {of_outside}"
        );
        let expectation = Expectation {
            kind,
            inside,
            outside,
            affinity_seconds,
            sources: value
                .has_source_ranges()
                .then(|| sources(tables, value.service_index(), key)),
        };
        seen.frontends.insert(frontend, expectation);
    }
    Ok(seen)
}

/// The networks of a service that may dial `key`, of its family.
fn sources(tables: &Actual, index: u32, key: &FrontendKey) -> BTreeSet<Network> {
    let is_v6 = Ipv6Addr::from(key.address()).to_canonical().is_ipv6();
    // Bits of the service index, and for IPv4 of the prefix that makes it a mapped address.
    let before = if is_v6 { 32 } else { 32 + 96 };
    let keys = tables.source_ranges.iter();
    keys.filter_map(|range| {
        let [a, b, c, d, address @ ..] = range.data();
        let length = u8::try_from(range.prefix().checked_sub(before)?).ok()?;
        let address = Ipv6Addr::from(address).to_canonical();
        (u32::from_be_bytes([a, b, c, d]) == index).then_some((address, length))
    })
    .collect()
}

/// Fails, with everything that differs, unless the tables do what is expected of every frontend.
pub fn check(tables: &Actual, expected: &Expected) -> Result<()> {
    let seen = seen(tables)?;
    let wanted: BTreeMap<_, _> = expected.frontends.iter().collect();
    let found: BTreeMap<_, _> = seen.frontends.iter().collect();
    let mut problems = Vec::new();
    for frontend in wanted.keys().chain(found.keys()).collect::<BTreeSet<_>>() {
        let (wanted, found) = (wanted.get(frontend), found.get(frontend));
        if wanted != found {
            problems.push(format!("{frontend}: {found:?}, not {wanted:?}"));
        }
    }
    if seen.addresses != expected.addresses {
        let (found, wanted) = (&seen.addresses, &expected.addresses);
        problems.push(format!("addresses {found:?}, not {wanted:?}"));
    }
    if !problems.is_empty() {
        bail!("the tables are not as expected:\n{}", problems.join("\n"));
    }
    Ok(())
}

/// Fails, with everything that differs, unless packets meet the same in both: every frontend, set and
/// slot. Ids and places aside, which depend on what was there before.
pub fn check_same(found: &Actual, wanted: &Actual) -> Result<()> {
    let (found, wanted) = (meaning(found)?, meaning(wanted)?);
    let mut problems = Vec::new();
    for key in found.keys().chain(wanted.keys()).collect::<BTreeSet<_>>() {
        let (found, wanted) = (found.get(key), wanted.get(key));
        if found == wanted {
            continue;
        }
        let sets = |meaning: Option<&Meaning>| {
            meaning.map(|(value, regions)| {
                let sets = regions
                    .iter()
                    .map(|(header, backends, _)| (header, backends));
                format!("{value} {:?}", sets.collect::<Vec<_>>())
            })
        };
        let (found, wanted) = (sets(found), sets(wanted));
        problems.push(if found == wanted {
            format!("{key}: the slots differ")
        } else {
            format!("{key}: {found:?}, not {wanted:?}")
        });
    }
    if !problems.is_empty() {
        bail!("the tables differ:\n{}", problems.join("\n"));
    }
    Ok(())
}

/// What packets to a frontend meet: what the frontend says, and the regions of both audiences.
type Meaning = (String, Vec<Region>);

fn meaning(tables: &Actual) -> Result<BTreeMap<String, Meaning>> {
    let mut all = BTreeMap::new();
    for (key, value) in &tables.frontends {
        let address = Ipv6Addr::from(key.address()).to_canonical();
        let name = format!("{address} {} {:?}", key.port(), key.protocol());
        let text = format!("{:?}, ready {}", value.kind(), value.has_ready());
        let mut regions = Vec::new();
        if key.protocol().is_some() {
            let words = tables.services.get(&value.service_index());
            for word in words.with_context(|| format!("{name} leads nowhere"))? {
                regions.push(region(tables, *word)?);
            }
        }
        all.insert(name, (text, regions));
    }
    Ok(all)
}

fn named(
    key: &FrontendKey,
    address: IpAddr,
    protocol: Protocol,
    kind: FrontendKind,
) -> Result<(Frontend, Kind)> {
    let protocol = match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    };
    let kind = match kind {
        FrontendKind::ServiceAddress => bail!("{key:?} has a port and the kind of an address"),
        FrontendKind::ClusterIp => Kind::ClusterIp,
        FrontendKind::NodePort => Kind::NodePort,
        FrontendKind::ExternalIp => Kind::ExternalIp,
        FrontendKind::LoadBalancer => Kind::LoadBalancer,
    };
    let frontend = if kind == Kind::NodePort {
        Frontend::NodePort(address.is_ipv6(), key.port(), protocol.to_owned())
    } else {
        Frontend::Address(address, key.port(), protocol.to_owned())
    };
    Ok((frontend, kind))
}

/// What the region of a word does with new flows, and for how long a client keeps its backend.
fn outcome(tables: &Actual, word: ServiceWord) -> Result<(Outcome, u32)> {
    let (header, backends) = header_of(tables, word)?;
    let places = backends
        .iter()
        .map(|(address, port, _)| (*address, *port))
        .collect();
    let outcome = match header.when_empty {
        _ if !backends.is_empty() => Outcome::To(places),
        WhenEmpty::Refuse => Outcome::Refuse,
        WhenEmpty::Drop => Outcome::Drop,
    };
    Ok((outcome, header.affinity_seconds))
}

/// A backend: address, port and flags.
type Backend = (IpAddr, u16, u8);

/// A region: its header, its backends in their own order, and the position there of each slot's
/// backend. Places in the list go by ids, which depend on what was there before.
type Region = (RegionHeader, Vec<Backend>, Vec<usize>);

fn words_of(tables: &Actual, word: ServiceWord) -> Result<&[u64]> {
    let region = tables.regions.get(&word.offset());
    let words = region.with_context(|| format!("no region at {}", word.offset()))?;
    Ok(words)
}

/// The header of a region, and its backends in the order of their ids.
fn header_of(tables: &Actual, word: ServiceWord) -> Result<(RegionHeader, Vec<Backend>)> {
    let words = words_of(tables, word)?;
    let word_at = |index: u32| {
        let index = usize::try_from(index).ok();
        let word = index.and_then(|index| words.get(index).copied());
        word.context("a region that is too short")
    };
    let header = RegionHeader::decode([word_at(0)?, word_at(1)?]);
    let mut backends = Vec::new();
    for position in 0..header.count {
        let (index, is_upper) = RegionHeader::id_word(position);
        let word = word_at(index)?;
        let raw = if is_upper {
            word >> 32
        } else {
            word & 0xffff_ffff
        };
        let id = BackendId::from_raw(u32::try_from(raw)?);
        let record = tables.backends.get(&id.index());
        let record = record.filter(|record| record.is(id));
        let record = record.with_context(|| format!("no backend {id:?}"))?;
        let address = Ipv6Addr::from(record.address()).to_canonical();
        backends.push((address, record.port(), record.flags().0));
    }
    Ok((header, backends))
}

fn region(tables: &Actual, word: ServiceWord) -> Result<Region> {
    let (header, by_id) = header_of(tables, word)?;
    let mut backends = by_id.clone();
    backends.sort_unstable();
    let mut places = Vec::new();
    for backend in &by_id {
        places.push(
            backends
                .binary_search(backend)
                .ok()
                .context("it is there")?,
        );
    }
    // Four slots a word; most of the time of all comparisons is spent here.
    let (first, _) = header.slot_word(0);
    let words = words_of(tables, word)?;
    let words = words.get(usize::try_from(first)?..).unwrap_or_default();
    let size = usize::try_from(header.table_size)?;
    let mut slots = Vec::with_capacity(size);
    for word in words {
        for shift in [0, 16, 32, 48] {
            if slots.len() < size {
                let position = (word >> shift & 0xffff) as usize;
                slots.push(*places.get(position).context("a slot of nobody")?);
            }
        }
    }
    ensure!(slots.len() == size, "a region that is too short");
    Ok((header, backends, slots))
}
