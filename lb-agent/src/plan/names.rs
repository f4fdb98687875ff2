//! What ids stand for: the snapshot that the agent leaves in its state directory, so that commands
//! have names when the agent is dead.
//!
//! The kernel tables hold indices; namespaces, pods and zones live only here. The file
//! (`names.json`) is written by the agent and read by every command. It is one JSON value a line:
//! [`Head`], then [`ServiceNames`] of each Service. What changes is appended: of several lines of one
//! Service the last counts, one without ports says that the Service is gone, and a last line without
//! an end is still being written. Endpoints are the bulk of it, so each is an array of
//! [`EndpointName`]'s fields in order, and the texts that repeat are positions in the line's
//! [`ServiceNames::strings`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Name of the file in the state directory.
pub const FILE_NAME: &str = "names.json";
/// Version of the shape: raised by any change that an older command would misread.
pub const VERSION: u32 = 3;

/// The first line of the file.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Head {
    /// [`VERSION`].
    pub version: u32,
    /// The node the agent acts for.
    #[serde(default)]
    pub node: String,
    /// What the planner could not do as it was told.
    #[serde(default)]
    pub reports: Vec<ReportName>,
}

/// Each further line of the file: one Service.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ServiceNames {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// Its ports, each in each family.
    pub ports: Vec<ServiceName>,
    /// Texts that endpoints of this line point at; the first is empty and stands for "not known".
    pub strings: Vec<String>,
}

/// What a line is about.
#[derive(Deserialize)]
struct LineName<'a> {
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
}

/// Everything that ids stand for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Names {
    /// [`VERSION`].
    pub version: u32,
    /// The node the agent acts for.
    pub node: String,
    /// Every service port of every family, by Service, then port, then family.
    pub services: Vec<ServiceName>,
    /// Texts that endpoints point at; the first is empty and stands for "not known".
    pub strings: Vec<String>,
    /// What the planner could not do as it was told.
    pub reports: Vec<ReportName>,
}

impl Names {
    /// Reads the text of a file. Of one of another version only the head is read.
    pub fn read(text: &[u8]) -> Result<Self, serde_json::Error> {
        let mut lines = text.split(|&byte| byte == b'\n');
        let head: Head = serde_json::from_slice(lines.next().unwrap_or_default())?;
        let mut names = Self {
            version: head.version,
            node: head.node,
            services: Vec::new(),
            strings: vec![String::new()],
            reports: head.reports,
        };
        if head.version == VERSION {
            let mut newest = BTreeMap::new();
            let mut lines = lines.peekable();
            while let Some(line) = lines.next() {
                match serde_json::from_slice::<LineName<'_>>(line) {
                    Ok(LineName { namespace, name }) => newest.insert((namespace, name), line),
                    // Nothing behind the last end, or a line that has none yet.
                    Err(_) if lines.peek().is_none() => break,
                    Err(error) => return Err(error),
                };
            }
            for line in newest.into_values() {
                names.add(serde_json::from_slice(line)?);
            }
        }
        Ok(names)
    }

    /// Adds a line; its texts follow those of the lines before.
    fn add(&mut self, line: ServiceNames) {
        let before = u32::try_from(self.strings.len() - 1).unwrap_or(u32::MAX);
        let moved = |position: &mut u32| {
            if *position != 0 {
                *position = position.saturating_add(before);
            }
        };
        self.strings.extend(line.strings.into_iter().skip(1));
        for mut port in line.ports {
            for endpoint in &mut port.endpoints {
                moved(&mut endpoint.pod);
                moved(&mut endpoint.node);
                moved(&mut endpoint.zone);
            }
            self.services.push(port);
        }
    }

    /// The text at `position` of [`Self::strings`], `None` for the empty one.
    pub fn string(&self, position: u32) -> Option<&str> {
        let text = self.strings.get(usize::try_from(position).ok()?)?;
        (!text.is_empty()).then_some(text)
    }
}

/// One port of one Service in one family: one entry of `SERVICES`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ServiceName {
    /// The service id ([`lb_common::id::ServiceId::raw`]); 0 where the tables had no room for it.
    pub id: u32,
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// Name of the port, empty for the only one.
    pub port_name: String,
    /// IANA protocol number.
    pub protocol: u8,
    /// Whether this is the IPv6 side.
    pub is_v6: bool,
    /// Addresses and ports that clients dial.
    pub frontends: Vec<FrontendName>,
    /// Whether `internalTrafficPolicy` is `Local`.
    pub is_internal_local: bool,
    /// Whether `externalTrafficPolicy` is `Local`.
    pub is_external_local: bool,
    /// Session affinity timeout in seconds, 0 for none.
    pub affinity_seconds: u32,
    /// Every endpoint of the port, used or not, by address and port.
    pub endpoints: Vec<EndpointName>,
}

/// An address and port that clients dial.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FrontendName {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// Where it comes from ([`lb_common::table::frontend::FrontendKind`]'s number).
    pub kind: u8,
    /// Whether an older Service has the same address, port and protocol, and so gets the packets.
    pub is_shadowed: bool,
    /// Whether only clients in the Service's source ranges may dial it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_ranged: bool,
}

/// An endpoint and what became of it. In the file an array of these fields, in this order.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(from = "EndpointRow", into = "EndpointRow")]
pub struct EndpointName {
    /// The backend id ([`lb_common::id::BackendId::raw`]), 0 where it has none.
    pub backend: u32,
    /// Its address.
    pub address: IpAddr,
    /// The port it serves at.
    pub port: u16,
    /// Its Pod (in the Service's namespace), a position in `strings` of the line, or of [`Names`].
    pub pod: u32,
    /// Its node, likewise.
    pub node: u32,
    /// Its zone, likewise.
    pub zone: u32,
    /// Its weight.
    pub weight: u16,
    /// Conditions and place: the bits of [`EndpointName`]'s constants.
    pub bits: u8,
    /// Why no new flow is sent to it; `None` where flows are.
    pub out: Option<OutReason>,
}

impl EndpointName {
    /// Bit: the `ready` condition.
    pub const READY: u8 = 1;
    /// Bit: the `serving` condition.
    pub const SERVING: u8 = 2;
    /// Bit: the `terminating` condition.
    pub const TERMINATING: u8 = 4;
    /// Bit: on this node.
    pub const LOCAL: u8 = 8;
    /// Bit: internal clients may be sent to it.
    pub const INTERNAL: u8 = 16;
    /// Bit: external clients may be sent to it.
    pub const EXTERNAL: u8 = 32;
    /// Bit: clients of the cluster that dial other than cluster addresses may be sent to it.
    pub const INSIDE: u8 = 64;

    /// Whether all of `bits` are set.
    pub const fn has(&self, bits: u8) -> bool {
        self.bits & bits == bits
    }
}

/// Why an endpoint gets no new flows.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OutReason {
    /// Neither ready nor serving while it terminates.
    NotReady,
    /// Terminating, and others are ready.
    Terminating,
    /// On another node, and the traffic policy is `Local`.
    NotLocal,
    /// Its zone hints name other zones.
    OtherZone,
    /// Its node hints name other nodes.
    OtherNode,
    /// Its weight is 0.
    WeightZero,
    /// Its address is one that no Pod can have, or is of another family than its slice.
    Refused,
    /// The tables had no room for the service's newest state, or it has too many endpoints.
    NoRoom,
}

impl OutReason {
    /// The reason in words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NotReady => "not ready",
            Self::Terminating => "terminating while others are ready",
            Self::NotLocal => "on another node, and the traffic policy is Local",
            Self::OtherZone => "hinted for other zones",
            Self::OtherNode => "hinted for other nodes",
            Self::WeightZero => "weight is 0",
            Self::Refused => "address refused",
            Self::NoRoom => "the tables had no room for the service",
        }
    }
}

/// Something the planner could not do as it was told.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ReportName {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// One line: what, and what the operator may do.
    pub text: String,
}

/// [`EndpointName`] as the file has it.
type EndpointRow = (u32, IpAddr, u16, u32, u32, u32, u16, u8, Option<OutReason>);

impl From<EndpointRow> for EndpointName {
    fn from((backend, address, port, pod, node, zone, weight, bits, out): EndpointRow) -> Self {
        Self {
            backend,
            address,
            port,
            pod,
            node,
            zone,
            weight,
            bits,
            out,
        }
    }
}

impl From<EndpointName> for EndpointRow {
    fn from(endpoint: EndpointName) -> Self {
        (
            endpoint.backend,
            endpoint.address,
            endpoint.port,
            endpoint.pod,
            endpoint.node,
            endpoint.zone,
            endpoint.weight,
            endpoint.bits,
            endpoint.out,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_each_line_are_its_own() {
        let line = |name: &str, pod: &str| {
            format!(
                r#"{{"namespace":"default","name":"{name}","ports":[{{"id":1,"namespace":"default","name":"{name}","port_name":"","protocol":6,"is_v6":false,"frontends":[],"is_internal_local":false,"is_external_local":false,"affinity_seconds":0,"endpoints":[[7,"10.0.1.2",8080,1,2,0,100,3,null]]}}],"strings":["","{pod}","node-a"]}}"#
            )
        };
        let text = [
            r#"{"version":3,"node":"n1","reports":[]}"#.to_owned(),
            line("db", "db-0"),
            line("web", "web-0"),
            String::new(),
        ];
        let names = Names::read(text.join("\n").as_bytes()).unwrap();
        let pods: Vec<_> = names
            .services
            .iter()
            .map(|service| {
                let endpoint = service.endpoints[0];
                [endpoint.pod, endpoint.node, endpoint.zone].map(|it| names.string(it))
            })
            .collect();
        assert_eq!(
            pods,
            [
                [Some("db-0"), Some("node-a"), None],
                [Some("web-0"), Some("node-a"), None]
            ]
        );
    }

    #[test]
    fn the_last_line_of_a_service_counts_and_one_that_has_no_end_does_not() {
        let line = |name: &str, id: Option<u32>| {
            let port = |id| {
                format!(
                    r#"{{"id":{id},"namespace":"default","name":"{name}","port_name":"","protocol":6,"is_v6":false,"frontends":[],"is_internal_local":false,"is_external_local":false,"affinity_seconds":0,"endpoints":[]}}"#
                )
            };
            let ports = id.map(port).unwrap_or_default();
            format!(r#"{{"namespace":"default","name":"{name}","ports":[{ports}],"strings":[""]}}"#)
        };
        let text = [
            r#"{"version":3,"node":"n1","reports":[]}"#.to_owned(),
            line("db", Some(1)),
            line("web", Some(2)),
            line("web", Some(3)),
            line("db", None),
            line("api", Some(4)),
            String::new(),
        ];
        let text = text.join("\n");
        let ids = |text: &str| -> Vec<u32> {
            let names = Names::read(text.as_bytes()).unwrap();
            names.services.iter().map(|service| service.id).collect()
        };
        assert_eq!(ids(&text), [4, 3]);
        for end in 1..line("db", Some(5)).len() {
            let unfinished = format!("{text}{}", &line("db", Some(5))[..end]);
            assert_eq!(ids(&unfinished), [4, 3], "{unfinished}");
        }
        assert_eq!(ids(&format!("{text}{}\n", line("db", Some(5)))), [4, 5, 3]);
        let damaged = text.replacen("\"ports\"", "ports", 1);
        Names::read(damaged.as_bytes()).unwrap_err();
    }

    #[test]
    fn of_a_file_of_another_version_only_that_is_known() {
        let names = Names::read(br#"{"version":1,"node":"n1","services":[]}"#).unwrap();
        assert_eq!((names.version, names.services.len()), (1, 0));
        Names::read(b"").unwrap_err();
    }

    #[test]
    fn an_endpoint_is_one_short_array_in_the_file() {
        let endpoint = EndpointName {
            backend: 7,
            address: IpAddr::from([10, 0, 1, 2]),
            port: 8080,
            pod: 1,
            node: 2,
            zone: 0,
            weight: 100,
            bits: EndpointName::READY | EndpointName::SERVING,
            out: Some(OutReason::OtherZone),
        };
        let text = serde_json::to_string(&endpoint).unwrap();
        assert_eq!(text, r#"[7,"10.0.1.2",8080,1,2,0,100,3,"other_zone"]"#);
        assert_eq!(
            serde_json::from_str::<EndpointName>(&text).unwrap(),
            endpoint
        );
    }
}
