//! Values that settings are written as. Each checks itself while it is read, so that a mistake is
//! reported with the line it stands on.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use lb_common::conntrack::State;
use serde::{Deserialize, Serialize};

/// A value that cannot be read; the text says how it is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ValueError {
    /// Not a range of addresses.
    #[error("write it such as 10.96.0.0/12, without bits behind the prefix")]
    Cidr,
    /// Not a duration, or none at all.
    #[error("write it such as 30s, 5m or 24h, at least 1s")]
    Timeout,
    /// Not a duration as Go writes it.
    #[error("write it such as 30s, 1m30s or 24h0m0s, in quotes where it is 0")]
    GoDuration,
    /// Not an address to listen on.
    #[error("write it such as 0.0.0.0:10256, [::]:10256 or Off")]
    Bind,
    /// Not a state of a connection.
    #[error("no such state of a connection; docs/datapath.md lists them")]
    State,
    /// Not an entry of the list of `NodePort` addresses.
    #[error("write a range such as 192.0.2.0/24, or one of primary, localhost and all")]
    NodePortAddress,
}

macro_rules! text_form {
    ($name:ty) => {
        impl TryFrom<String> for $name {
            type Error = ValueError;

            fn try_from(text: String) -> Result<Self, ValueError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    };
}

/// A network and its prefix length.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr(pub IpAddr, pub u8);

text_form!(Cidr);

impl FromStr for Cidr {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (address, length) = text.split_once('/').ok_or(ValueError::Cidr)?;
        let (Ok(address), Ok(length)) = (address.parse::<IpAddr>(), length.parse::<u8>()) else {
            return Err(ValueError::Cidr);
        };
        let (bits, width) = match address {
            IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
            IpAddr::V6(address) => (address.to_bits(), 128),
        };
        let beyond = u128::MAX.checked_shr(length.into()).unwrap_or(0);
        if length > width || bits & beyond != 0 {
            return Err(ValueError::Cidr);
        }
        Ok(Self(address, length))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.0, self.1)
    }
}

/// A time of at least a second: `30s`, `5m`, `1h30m`; a number alone is seconds.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timeout(pub Duration);

text_form!(Timeout);

impl FromStr for Timeout {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let duration = match text.parse::<u64>() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => text
                .parse::<GoDuration>()
                .ok()
                .and_then(GoDuration::duration)
                .ok_or(ValueError::Timeout)?,
        };
        if duration < Duration::from_secs(1) {
            return Err(ValueError::Timeout);
        }
        Ok(Self(duration))
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let nanos = self.0.subsec_nanos();
        match (seconds / 3600, seconds / 60 % 60, seconds % 60, nanos) {
            (hours, 0, 0, 0) if hours > 0 => write!(formatter, "{hours}h"),
            (0, minutes, 0, 0) if minutes > 0 => write!(formatter, "{minutes}m"),
            (0, 0, seconds, 0) => write!(formatter, "{seconds}s"),
            (_, _, _, 0) => write!(formatter, "{}m{}s", seconds / 60, seconds % 60),
            _ => write!(formatter, "{seconds}s{nanos}ns"),
        }
    }
}

/// A duration as Go writes it: a sign, then numbers with units, or `0`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
#[serde(try_from = "String")]
pub struct GoDuration {
    /// Nanoseconds, which may be negative.
    pub nanos: i128,
}

impl TryFrom<String> for GoDuration {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        text.parse()
    }
}

impl GoDuration {
    /// The duration, unless it is negative.
    pub fn duration(self) -> Option<Duration> {
        let seconds = u64::try_from(self.nanos.div_euclid(1_000_000_000)).ok()?;
        let nanos = u32::try_from(self.nanos.rem_euclid(1_000_000_000)).ok()?;
        Some(Duration::new(seconds, nanos))
    }
}

impl FromStr for GoDuration {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (sign, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Ok(Self::default());
        }
        if rest.is_empty() {
            return Err(ValueError::GoDuration);
        }
        let mut nanos: i128 = 0;
        while !rest.is_empty() {
            let length = rest
                .bytes()
                .take_while(|byte| byte.is_ascii_digit() || *byte == b'.')
                .count();
            let (number, after) = rest.split_at(length);
            let (unit, after) = UNITS
                .iter()
                .find_map(|&(unit, nanos)| Some((nanos, after.strip_prefix(unit)?)))
                .ok_or(ValueError::GoDuration)?;
            nanos = scaled(number, unit)
                .and_then(|part| nanos.checked_add(part))
                .filter(|total| *total <= i128::from(i64::MAX))
                .ok_or(ValueError::GoDuration)?;
            rest = after;
        }
        Ok(Self {
            nanos: sign * nanos,
        })
    }
}

/// Units and their nanoseconds, `ms` before `m`.
const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// `number`, which may have a fraction, times `unit`.
fn scaled(number: &str, unit: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits = |text: &str| match text {
        "" => Some(0),
        text => text.parse::<i128>().ok(),
    };
    // More digits than this are less than a nanosecond.
    let fraction = fraction.get(..fraction.len().min(18))?;
    let power = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    digits(whole)?
        .checked_mul(unit)?
        .checked_add(digits(fraction)?.checked_mul(unit)? / power)
}

/// Where a server listens.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Bind {
    /// Nowhere.
    Off,
    /// At this address.
    At(SocketAddr),
}

text_form!(Bind);

impl Bind {
    /// Reads an address that may lack its port, as kube-proxy does.
    pub fn with_default_port(text: &str, port: u16) -> Result<Self, ValueError> {
        let bare = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self::At(SocketAddr::new(address, port)));
        }
        // Go takes a port alone to mean every address.
        if let Some(port) = text.strip_prefix(':').and_then(|port| port.parse().ok()) {
            return Ok(Self::At(SocketAddr::new(
                Ipv4Addr::UNSPECIFIED.into(),
                port,
            )));
        }
        text.parse()
    }
}

impl FromStr for Bind {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text == "Off" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::At).ok().ok_or(ValueError::Bind)
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => formatter.write_str("Off"),
            Self::At(address) => write!(formatter, "{address}"),
        }
    }
}

/// The name of a connection's state.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct StateName(pub State);

text_form!(StateName);

impl Ord for StateName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.number().cmp(&other.0.number())
    }
}

impl PartialOrd for StateName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl FromStr for StateName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        State::ALL
            .iter()
            .find(|state| state.name() == text)
            .map(|state| Self(*state))
            .ok_or(ValueError::State)
    }
}

impl fmt::Display for StateName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.name())
    }
}

/// Addresses of this node at which node ports are served.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum NodePortAddress {
    /// The Node's primary address of each family.
    Primary,
    /// 127.0.0.0/8 and `::1`.
    Localhost,
    /// All of them.
    All,
    /// Those in this range.
    Range(Cidr),
}

text_form!(NodePortAddress);

impl FromStr for NodePortAddress {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "primary" => Ok(Self::Primary),
            "localhost" => Ok(Self::Localhost),
            "all" => Ok(Self::All),
            range => range
                .parse()
                .map(Self::Range)
                .ok()
                .ok_or(ValueError::NodePortAddress),
        }
    }
}

impl fmt::Display for NodePortAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary => formatter.write_str("primary"),
            Self::Localhost => formatter.write_str("localhost"),
            Self::All => formatter.write_str("all"),
            Self::Range(range) => write!(formatter, "{range}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        const SECOND: i128 = 1_000_000_000;
        for (text, nanos) in [
            ("0s", 0),
            ("0", 0),
            ("30s", 30 * SECOND),
            ("24h0m0s", 86_400 * SECOND),
            ("1m30.5s", 90 * SECOND + SECOND / 2),
            ("300ms", SECOND * 3 / 10),
            (".5s", SECOND / 2),
            ("1.5h", 5_400 * SECOND),
            ("-1s", -SECOND),
            ("10us", 10_000),
        ] {
            assert_eq!(text.parse::<GoDuration>().unwrap().nanos, nanos, "{text}");
        }
        for text in ["", "s", "30", "1d", "-", ".", ".s", "1s2", "9999999999h"] {
            assert_eq!(
                text.parse::<GoDuration>(),
                Err(ValueError::GoDuration),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        fn check<T: FromStr<Err = ValueError> + fmt::Display>(texts: &[&str]) {
            for text in texts {
                let value = text.parse::<T>().ok().unwrap();
                assert_eq!(value.to_string(), *text);
            }
        }
        check::<Cidr>(&["10.96.0.0/12", "fd00:96::/112", "0.0.0.0/0"]);
        check::<Timeout>(&["30s", "5m", "24h", "90m30s", "2s500ns"]);
        check::<Bind>(&["Off", "0.0.0.0:10256", "[::]:10256"]);
        check::<NodePortAddress>(&["primary", "localhost", "all", "192.0.2.0/24"]);
        check::<StateName>(&["established", "udp_new"]);
    }

    #[test]
    fn an_address_may_lack_its_port() {
        for (text, expected) in [
            ("0.0.0.0", "0.0.0.0:10256"),
            ("::", "[::]:10256"),
            ("[::1]", "[::1]:10256"),
            ("[::1]:99", "[::1]:99"),
            ("127.0.0.1:99", "127.0.0.1:99"),
            (":99", "0.0.0.0:99"),
        ] {
            let bind = Bind::with_default_port(text, 10256).unwrap();
            assert_eq!(bind.to_string(), expected, "{text}");
        }
        for text in ["host:1", "1.2.3:4", "1.2.3.4:", "::1:65536x"] {
            assert_eq!(
                Bind::with_default_port(text, 10256),
                Err(ValueError::Bind),
                "{text}"
            );
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert_eq!("10.96.0.1/12".parse::<Cidr>(), Err(ValueError::Cidr));
        assert_eq!("10.96.0.0/33".parse::<Cidr>(), Err(ValueError::Cidr));
        assert_eq!("500ms".parse::<Timeout>(), Err(ValueError::Timeout));
        assert_eq!("establish".parse::<StateName>(), Err(ValueError::State));
        assert_eq!(
            "everywhere".parse::<NodePortAddress>(),
            Err(ValueError::NodePortAddress)
        );
    }
}
