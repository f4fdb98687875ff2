//! Arguments that commands share, and how their values are read.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use lb_common::flow::Protocol;

use crate::model::name::ObjectName;

/// Where the pins and the state of one agent are. Several agents live on one machine by having
/// their own.
#[derive(Args, Clone, Debug)]
pub struct Places {
    /// Directory on a bpffs that holds the agent's maps and links
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "STEERAGE_PIN_DIR",
        default_value = "/sys/fs/bpf/steerage"
    )]
    pub pin_dir: PathBuf,

    /// Directory with the agent's names and status
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "STEERAGE_STATE_DIR",
        default_value = "/run/steerage"
    )]
    pub state_dir: PathBuf,

    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set or `TERM` is `dumb`.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The form data is printed in.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Format {
    /// Aligned columns, for people.
    #[default]
    Table,
    /// The same with more columns.
    Wide,
    /// One JSON document, versioned by its `apiVersion`.
    Json,
    /// The JSON document as YAML.
    Yaml,
}

/// How data is printed.
#[derive(Args, Clone, Debug, Default)]
pub struct Output {
    /// Form of the output
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    pub output: Format,

    /// Leave out the line with the columns' names
    #[arg(long)]
    pub no_headers: bool,
}

/// Printing again and again.
#[derive(Args, Clone, Debug, Default)]
pub struct Watch {
    /// Print again at this interval until interrupted
    #[arg(
        short,
        long,
        value_name = "INTERVAL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2s",
        value_parser = parse_interval
    )]
    pub watch: Option<Duration>,
}

/// Which namespaces are shown. A node has no current namespace, so that all is the default.
#[derive(Args, Clone, Debug, Default)]
pub struct NamespaceFilter {
    /// Show this namespace only
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,

    /// Show all namespaces (the default)
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
}

impl NamespaceFilter {
    /// Whether objects of `namespace` are shown.
    #[must_use]
    pub fn admits(&self, namespace: &str) -> bool {
        self.namespace
            .as_deref()
            .is_none_or(|only| only == namespace)
    }
}

/// A Service or one of its ports: `namespace/name` or `namespace/name:port`, where the port is its
/// name or number.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceReference {
    /// The Service.
    pub service: ObjectName,
    /// Name or number of a port.
    pub port: Option<String>,
}

impl FromStr for ServiceReference {
    type Err = ArgumentError;

    fn from_str(text: &str) -> Result<Self, ArgumentError> {
        let (object, port) = match text.split_once(':') {
            Some((object, port)) => (object, Some(port)),
            None => (text, None),
        };
        match object.split_once('/') {
            Some((namespace, name))
                if is_label(namespace) && is_label(name) && port.is_none_or(is_label) =>
            {
                Ok(Self {
                    service: ObjectName {
                        namespace: namespace.into(),
                        name: name.into(),
                    },
                    port: port.map(str::to_owned),
                })
            }
            _ => Err(ArgumentError::Service),
        }
    }
}

impl std::fmt::Display for ServiceReference {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.service)?;
        self.port
            .as_ref()
            .map_or(Ok(()), |port| write!(formatter, ":{port}"))
    }
}

/// Whether `text` may be a name in Kubernetes, which also is how pods are told from addresses.
pub(crate) fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
}

/// An argument that cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ArgumentError {
    /// Not a Service.
    #[error("write it as NAMESPACE/NAME or NAMESPACE/NAME:PORT, such as default/web:http")]
    Service,
    /// Not a protocol.
    #[error("the protocol is one of tcp, udp and sctp")]
    Protocol,
    /// Not a duration.
    #[error("write a number and its unit, such as 500ms, 30s, 5m or 1h")]
    Duration,
    /// A wait of no time.
    #[error("the interval must be at least 100ms")]
    Interval,
}

/// Reads a protocol's name.
pub fn parse_protocol(text: &str) -> Result<Protocol, ArgumentError> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        _ => Err(ArgumentError::Protocol),
    }
}

/// Reads a duration such as `500ms`, `30s`, `5m`, `1h`; a number alone is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, ArgumentError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok().ok_or(ArgumentError::Duration)?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "s" | "" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    };
    milliseconds
        .map(Duration::from_millis)
        .ok_or(ArgumentError::Duration)
}

/// Reads the interval of `--watch`.
fn parse_interval(text: &str) -> Result<Duration, ArgumentError> {
    let interval = parse_duration(text)?;
    if interval < Duration::from_millis(100) {
        return Err(ArgumentError::Interval);
    }
    Ok(interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, milliseconds) in [
            ("500ms", 500),
            ("2s", 2_000),
            ("30", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for text in ["", "s", "1d", "-1s", "1.5s", "99999999999999999999s"] {
            assert_eq!(parse_duration(text), Err(ArgumentError::Duration), "{text}");
        }
        assert_eq!(parse_interval("10ms"), Err(ArgumentError::Interval));
    }

    #[test]
    fn a_service_is_named_with_its_namespace() {
        let reference: ServiceReference = "default/web:http".parse().unwrap();
        assert_eq!(reference.to_string(), "default/web:http");
        assert_eq!(reference.port.as_deref(), Some("http"));
        for text in ["web", "default/", "/web", "default/web:", "a/b/c", ""] {
            assert_eq!(
                text.parse::<ServiceReference>(),
                Err(ArgumentError::Service),
                "{text}"
            );
        }
    }
}
