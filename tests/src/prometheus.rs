//! A reader of the text that Prometheus scrapes, which refuses what Prometheus would, and more: it
//! shares nothing with the code that writes it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};

/// A metric with its series.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metric {
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// What people are told of it.
    pub help: String,
    /// Its samples, in the order of the text.
    pub samples: Vec<Sample>,
}

/// One line with a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The full name, with the suffix that its kind adds.
    pub name: String,
    /// Labels by name.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

impl Metric {
    /// The value of the only series with this label; `None` where there is none.
    pub fn value(&self, label: (&str, &str)) -> Option<f64> {
        let (name, value) = label;
        let mut found = self
            .samples
            .iter()
            .filter(|sample| sample.labels.get(name).is_some_and(|found| found == value));
        let sample = found.next()?;
        found.next().is_none().then_some(sample.value)
    }
}

/// Reads a whole answer: metrics by name.
pub fn parse(text: &str) -> Result<BTreeMap<String, Metric>> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    let mut current = String::new();
    let mut has_ended = false;
    for (index, line) in text.lines().enumerate() {
        let mut read = || -> Result<()> {
            ensure!(!has_ended, "text after the end");
            if line == "# EOF" {
                has_ended = true;
            } else if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').context("no help")?;
                help.clone_into(&mut begin(&mut metrics, &mut current, name)?.help);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').context("no type")?;
                ensure!(
                    ["counter", "gauge", "histogram"].contains(&kind),
                    "unknown type"
                );
                let metric = begin(&mut metrics, &mut current, name)?;
                ensure!(metric.kind.is_empty(), "a second type");
                kind.clone_into(&mut metric.kind);
            } else {
                let sample = sample(line)?;
                let metric = metrics.get_mut(&current).context("no metric has begun")?;
                ensure!(
                    is_named(&current, &metric.kind, &sample.name),
                    "not of metric {current}"
                );
                metric.samples.push(sample);
            }
            Ok(())
        };
        read().with_context(|| format!("line {}: {line}", index + 1))?;
    }
    ensure!(has_ended, "the end is missing");
    for (name, metric) in &metrics {
        check(metric).with_context(|| name.clone())?;
    }
    Ok(metrics)
}

fn begin<'a>(
    metrics: &'a mut BTreeMap<String, Metric>,
    current: &mut String,
    name: &str,
) -> Result<&'a mut Metric> {
    ensure!(is_name(name), "not a name: {name}");
    if current != name {
        ensure!(!metrics.contains_key(name), "the metric is in two places");
        name.clone_into(current);
    }
    Ok(metrics.entry(name.to_owned()).or_default())
}

fn is_name(name: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    name.starts_with(is_letter) && name.chars().all(|c| is_letter(c) || c.is_ascii_digit())
}

fn is_named(metric: &str, kind: &str, sample: &str) -> bool {
    let Some(suffix) = sample.strip_prefix(metric) else {
        return false;
    };
    match kind {
        "counter" => suffix == "_total",
        "histogram" => ["_bucket", "_sum", "_count"].contains(&suffix),
        _ => suffix.is_empty(),
    }
}

fn sample(line: &str) -> Result<Sample> {
    let end = line.find(['{', ' ']).context("no value")?;
    let (name, mut rest) = line.split_at(end);
    ensure!(is_name(name), "not a name");
    let mut labels = BTreeMap::new();
    if let Some(mut inside) = rest.strip_prefix('{') {
        while let Some(at) = inside.find('=') {
            let (label, after) = inside.split_at(at);
            ensure!(is_name(label) && !label.contains(':'), "not a label");
            let quoted = after
                .strip_prefix("=\"")
                .context("a label without quotes")?;
            let (value, after) = unquote(quoted)?;
            ensure!(
                labels.insert(label.to_owned(), value).is_none(),
                "a label twice"
            );
            inside = after.strip_prefix(',').unwrap_or(after);
            if inside.starts_with('}') {
                break;
            }
        }
        rest = inside.strip_prefix('}').context("labels do not end")?;
    }
    let value = rest
        .strip_prefix(' ')
        .context("no blank before the value")?;
    Ok(Sample {
        name: name.to_owned(),
        labels,
        value: match value {
            "+Inf" => f64::INFINITY,
            "-Inf" => f64::NEG_INFINITY,
            "NaN" => f64::NAN,
            value => value.parse()?,
        },
    })
}

/// The text up to the closing quote, and what follows that.
fn unquote(text: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match chars.next().context("nothing is escaped")?.1 {
                'n' => value.push('\n'),
                c @ ('\\' | '"') => value.push(c),
                c => bail!("\\{c} is no escape"),
            },
            c => value.push(c),
        }
    }
    bail!("a label's value does not end")
}

fn check(metric: &Metric) -> Result<()> {
    ensure!(!metric.kind.is_empty(), "no type");
    ensure!(!metric.help.is_empty(), "no help");
    let mut seen = BTreeSet::new();
    for sample in &metric.samples {
        let series = (sample.name.clone(), sample.labels.clone());
        ensure!(seen.insert(series), "a series twice: {sample:?}");
        if metric.kind != "gauge" {
            ensure!(sample.value >= 0.0, "below 0: {sample:?}");
        }
    }
    if metric.kind == "histogram" {
        check_histogram(metric)?;
    }
    Ok(())
}

fn check_histogram(metric: &Metric) -> Result<()> {
    let mut buckets: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
    let mut counts = BTreeMap::new();
    for sample in &metric.samples {
        let mut labels = sample.labels.clone();
        if sample.name.ends_with("_bucket") {
            let limit = labels.remove("le").context("a bucket without limit")?;
            let limit = if limit == "+Inf" {
                f64::INFINITY
            } else {
                limit.parse()?
            };
            buckets
                .entry(labels)
                .or_default()
                .push((limit, sample.value));
        } else if sample.name.ends_with("_count") {
            counts.insert(labels, sample.value);
        }
    }
    ensure!(buckets.len() == counts.len(), "buckets and counts differ");
    for (labels, buckets) in buckets {
        let is_rising = buckets.is_sorted_by(|(a, x), (b, y)| a < b && x <= y);
        ensure!(is_rising, "buckets do not rise: {labels:?}");
        let last = buckets.last().copied();
        let count = counts.get(&labels).copied();
        let is_complete = last.is_some_and(|(limit, value)| {
            limit.is_infinite() && count.is_some_and(|count| count.to_bits() == value.to_bits())
        });
        ensure!(is_complete, "the last bucket is not the count: {labels:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
# HELP a_b Help with \"quotes\".
# TYPE a_b counter
a_b_total{x=\"1\",y=\"q\\\"\\\\\\n\"} 3
a_b_total{x=\"2\",y=\"\"} 0.5
# HELP h H.
# TYPE h histogram
h_sum 2.5
h_count 3
h_bucket{le=\"0.5\"} 1
h_bucket{le=\"+Inf\"} 3
# EOF
";

    #[test]
    fn a_good_text_is_read() {
        let metrics = parse(GOOD).unwrap();
        assert_eq!(metrics["a_b"].value(("x", "1")), Some(3.0));
        assert_eq!(metrics["a_b"].samples[0].labels["y"], "q\"\\\n");
        assert_eq!(metrics["a_b"].value(("x", "3")), None);
        assert_eq!(metrics["h"].kind, "histogram");
    }

    #[test]
    fn a_bad_text_is_refused() {
        for (from, to) in [
            ("# EOF\n", ""),
            ("# EOF\n", "# EOF\nx 1\n"),
            ("a_b_total{x=\"1\"", "a_b{x=\"1\""),
            (
                "x=\"2\"",
                "x=\"1\",y=\"q\\\"\\\\\\n\"} 3\na_b_total{x=\"2\",x=\"2\"",
            ),
            ("h_count 3", "h_count 4"),
            ("le=\"0.5\"} 1", "le=\"0.5\"} 4"),
            ("# TYPE h histogram\n", ""),
            ("# TYPE h histogram", "# TYPE h thing"),
            (" 0.5\n", " half\n"),
            (" 0.5\n", " -0.5\n"),
            ("# HELP h H.\n# TYPE h", "# HELP a_b H.\n# TYPE a_b"),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let text = GOOD.replace(from, to);
            assert!(parse(&text).is_err(), "{from} -> {to}");
        }
    }
}
