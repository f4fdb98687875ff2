//! The words of `CONFIG`: what the programs must know beside the tables.

use std::net::IpAddr;
use std::time::Duration;

use lb_common::conntrack::State;
use lb_common::family::{Family, V4, V6};
use lb_common::flows::control::MAX_TIMEOUT;
use lb_common::table::config::{self, Cidr, MAX_CIDRS, MAX_HOST_CIDRS};

/// A word of `CONFIG` and its value.
pub type ConfigWord = (u32, u64);

/// The words of the conntrack timeouts: the settings', where they say something, else the defaults.
pub fn timeouts(settings: &[Option<Duration>]) -> Vec<ConfigWord> {
    State::ALL
        .iter()
        .map(|state| {
            let seconds = usize::try_from(state.number())
                .ok()
                .and_then(|number| settings.get(number).copied().flatten())
                .map_or(state.default_timeout().0.into(), |timeout| {
                    timeout.as_secs().clamp(1, MAX_TIMEOUT.0.into())
                });
            (config::TIMEOUTS + state.number(), seconds)
        })
        .collect()
}

/// The word of the sizes of the flow tables.
pub fn flow_buckets(v4: u32, v6: u32) -> ConfigWord {
    (config::FLOW_BUCKETS, u64::from(v6) << 32 | u64::from(v4))
}

/// What ranges of addresses stand for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// Service addresses.
    Service,
    /// The cluster's pods.
    Cluster,
    /// Hosts, and what pods may be among them.
    Host,
}

impl Purpose {
    const fn count_word(self) -> u32 {
        match self {
            Self::Service => config::SERVICE_CIDR_COUNTS,
            Self::Cluster => config::CLUSTER_CIDR_COUNTS,
            Self::Host => config::HOST_CIDR_COUNTS,
        }
    }

    const fn first_word<F: Family>(self) -> u32 {
        match self {
            Self::Service => Cidr::<F>::FIRST_WORD,
            Self::Cluster => Cidr::<F>::FIRST_CLUSTER_WORD,
            Self::Host => Cidr::<F>::FIRST_HOST_WORD,
        }
    }

    /// Most ranges of a family.
    const fn room(self) -> u32 {
        match self {
            Self::Service | Self::Cluster => MAX_CIDRS,
            Self::Host => MAX_HOST_CIDRS,
        }
    }
}

/// Ranges as words, and those there was no room for. The count goes last: a program that
/// sees it sees the ranges.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CidrWords {
    /// In the order of writing.
    pub words: Vec<ConfigWord>,
    /// More than there is room for of a family.
    pub left_out: Vec<(IpAddr, u8)>,
}

/// The words for `cidrs`; the same range twice is one.
pub fn cidrs(purpose: Purpose, cidrs: &[(IpAddr, u8)]) -> CidrWords {
    let mut result = CidrWords::default();
    let mut counts = [0_u32; 2];
    let mut seen = Vec::new();
    for &(network, length) in cidrs {
        if seen.contains(&(network, length)) {
            continue;
        }
        seen.push((network, length));
        let count = &mut counts[usize::from(network.is_ipv6())];
        if *count == purpose.room() {
            result.left_out.push((network, length));
            continue;
        }
        match network {
            IpAddr::V4(address) => {
                let first = purpose.first_word::<V4>() + *count * Cidr::<V4>::WORDS;
                push::<V4>(&mut result.words, first, address.octets(), length);
            }
            IpAddr::V6(address) => {
                let first = purpose.first_word::<V6>() + *count * Cidr::<V6>::WORDS;
                push::<V6>(&mut result.words, first, address.octets(), length);
            }
        }
        *count += 1;
    }
    let [v4, v6] = counts;
    let counts = u64::from(v6) << 32 | u64::from(v4);
    result.words.push((purpose.count_word(), counts));
    result
}

/// Adds the words of a range, which begin at `first`.
fn push<F: Family>(words: &mut Vec<ConfigWord>, first: u32, network: F::Address, length: u8) {
    let width = if F::IS_V6 { 128 } else { 32 };
    let ones = u32::from(length).min(width);
    // The mask as one number of 128 bits; IPv4 is the lower 32 of them.
    let mask = u128::MAX.checked_shl(width - ones).unwrap_or(0);
    let bytes = mask.to_be_bytes();
    let half = |range: std::ops::Range<usize>| {
        bytes[range]
            .iter()
            .fold(0_u64, |value, &byte| value << 8 | u64::from(byte))
    };
    let mask = if F::IS_V6 {
        F::from_halves([half(0..8), half(8..16)])
    } else {
        F::from_halves([half(12..16), 0])
    };
    let [high, low] = F::halves(network);
    let [mask_high, mask_low] = F::halves(mask);
    let cidr = Cidr::<F> {
        address: F::from_halves([high & mask_high, low & mask_low]),
        mask,
    };
    words.extend((first..first + Cidr::<F>::WORDS).zip(cidr.encode()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn written(cidrs: &[(&str, u8)]) -> (BTreeMap<u32, u64>, usize) {
        let cidrs: Vec<_> = cidrs
            .iter()
            .map(|&(network, length)| (network.parse().unwrap(), length))
            .collect();
        let result = super::cidrs(Purpose::Service, &cidrs);
        (result.words.into_iter().collect(), result.left_out.len())
    }

    #[test]
    fn a_range_holds_what_it_should_and_nothing_else() {
        let (words, _) = written(&[("10.96.0.0", 12), ("fd00:10:96::", 112), ("0.0.0.0", 0)]);
        let word = |index| words.get(&index).copied().unwrap_or(0);
        assert_eq!(word(config::SERVICE_CIDR_COUNTS), 1 << 32 | 2);
        let v4 = Cidr::<V4>::read(0, word);
        assert!(v4.contains([10, 96, 0, 1]) && v4.contains([10, 111, 255, 255]));
        assert!(!v4.contains([10, 112, 0, 0]) && !v4.contains([10, 95, 255, 255]));
        let all = Cidr::<V4>::read(1, word);
        assert!(all.contains([255, 1, 2, 3]));
        let v6 = Cidr::<V6>::read(0, word);
        let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        assert!(v6.contains(address("fd00:10:96::ffff")));
        assert!(!v6.contains(address("fd00:10:96::1:0")));
    }

    #[test]
    fn ranges_of_pods_do_not_touch_those_of_services() {
        let pods = [("10.244.0.0", 16), ("fd00:10:244::", 48)]
            .map(|(network, length)| (network.parse().unwrap(), length));
        let words: BTreeMap<_, _> = cidrs(Purpose::Cluster, &pods).words.into_iter().collect();
        let word = |index| words.get(&index).copied().unwrap_or(0);
        assert_eq!(word(config::CLUSTER_CIDR_COUNTS), 1 << 32 | 1);
        assert_eq!(word(config::SERVICE_CIDR_COUNTS), 0);
        let v4 = Cidr::<V4>::read_from(config::CLUSTER_CIDRS_V4, 0, word);
        assert!(v4.contains([10, 244, 7, 7]) && !v4.contains([10, 245, 0, 0]));
        let v6 = Cidr::<V6>::read_from(config::CLUSTER_CIDRS_V6, 0, word);
        let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        assert!(v6.contains(address("fd00:10:244:3::1")));
    }

    #[test]
    fn ranges_of_hosts_have_words_of_their_own_and_less_room() {
        let hosts = [
            "0.0.0.0", "::", "fd00:1::", "fd00:2::", "fd00:3::", "fd00:4::",
        ]
        .map(|network: &str| {
            (
                network.parse().unwrap(),
                if network.len() < 8 { 0 } else { 64 },
            )
        });
        let hosts = [&hosts[..], &[([192, 0, 2, 1].into(), 24)]].concat();
        let CidrWords { words, left_out } = cidrs(Purpose::Host, &hosts);
        assert_eq!(left_out, [("fd00:4::".parse().unwrap(), 64)]);
        let words: BTreeMap<_, _> = words.into_iter().collect();
        let word = |index| words.get(&index).copied().unwrap_or(0);
        assert_eq!(word(config::HOST_CIDR_COUNTS), 4 << 32 | 2);
        assert_eq!(word(config::CLUSTER_CIDR_COUNTS), 0);
        let all = Cidr::<V4>::read_from(config::HOST_CIDRS_V4, 0, word);
        assert!(all.contains([255, 1, 2, 3]));
        let v4 = Cidr::<V4>::read_from(config::HOST_CIDRS_V4, 1, word);
        assert!(v4.contains([192, 0, 2, 7]) && !v4.contains([192, 0, 3, 7]));
    }

    #[test]
    fn bits_behind_the_prefix_do_not_matter() {
        let (words, _) = written(&[("10.96.3.4", 16)]);
        let cidr = Cidr::<V4>::read(0, |index| words.get(&index).copied().unwrap_or(0));
        assert!(cidr.contains([10, 96, 200, 1]));
    }

    #[test]
    fn ranges_beyond_the_room_are_reported_and_repeated_ones_are_one() {
        let many: Vec<_> = (0..10).map(|n| format!("10.{n}.0.0")).collect();
        let mut cidrs: Vec<_> = many.iter().map(|network| (network.as_str(), 16)).collect();
        cidrs.push(("10.0.0.0", 16));
        let (words, left_out) = written(&cidrs);
        assert_eq!(words[&config::SERVICE_CIDR_COUNTS], 8);
        assert_eq!(left_out, 2);
    }

    #[test]
    fn timeouts_are_the_settings_or_the_defaults_and_can_be_measured() {
        let number = usize::try_from(State::UdpNew.number()).unwrap();
        let mut settings = vec![None; number + 1];
        settings[number] = Some(Duration::from_secs(7));
        settings[5] = Some(Duration::from_secs(u64::MAX));
        let words: BTreeMap<_, _> = timeouts(&settings).into_iter().collect();
        let word = |state: State| words[&(config::TIMEOUTS + state.number())];
        assert_eq!(word(State::UdpNew), 7);
        assert_eq!(word(State::Established), u64::from(MAX_TIMEOUT.0));
        assert_eq!(word(State::CloseWait), 3600);
        assert_eq!(words.len(), State::ALL.len());
    }
}
