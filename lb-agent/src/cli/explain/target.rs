//! Who sends and what is dialled, by address or by name.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use lb_common::flow::Protocol;

use super::DEFAULT_PROTOCOL;
use crate::cli::args::{ServiceReference, parse_protocol};
use crate::cli::error::CliError;
use crate::cli::view::services::{ServiceView, title};
use crate::model::name::ObjectName;
use crate::plan::names::Names;

/// A port that clients choose, where none was given.
const ANY_PORT: u16 = 40_000;

/// Who sends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Client {
    Address(IpAddr, Option<u16>),
    Pod(ObjectName, Option<u16>),
}

/// What is dialled.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Destination {
    Address(SocketAddr, Option<Protocol>),
    Service(ServiceReference, Option<Protocol>),
}

/// A text that is neither an address nor a name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum TargetError {
    #[error("write it as ADDRESS, ADDRESS:PORT, [IPV6]:PORT or NAMESPACE/POD[:PORT]")]
    Client,
    #[error("write it as ADDRESS:PORT[/PROTO] or NAMESPACE/SERVICE[:PORT][/PROTO]")]
    Destination,
    #[error("the flags are fin, syn, rst, psh, ack and urg, with commas between")]
    Flags,
}

impl FromStr for Client {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address, None));
        }
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return Ok(Self::Address(socket.ip(), Some(socket.port())));
        }
        let reference: ServiceReference = text.parse().ok().ok_or(TargetError::Client)?;
        let port = match reference.port {
            Some(port) => Some(port.parse().ok().ok_or(TargetError::Client)?),
            None => None,
        };
        Ok(Self::Pod(reference.service, port))
    }
}

impl FromStr for Destination {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (rest, protocol) = match text.rsplit_once('/') {
            // A Service may be called "tcp": what is before a protocol has a port or a slash.
            Some((rest, last)) if rest.contains(['/', ':']) => match parse_protocol(last) {
                Ok(protocol) => (rest, Some(protocol)),
                Err(_) => (text, None),
            },
            _ => (text, None),
        };
        if let Ok(socket) = rest.parse() {
            return Ok(Self::Address(socket, protocol));
        }
        let reference = rest.parse().ok().ok_or(TargetError::Destination)?;
        Ok(Self::Service(reference, protocol))
    }
}

/// Reads TCP flags as byte 13 of the header has them (RFC 9293 §3.1).
pub(super) fn parse_flags(text: &str) -> Result<u8, TargetError> {
    text.split(',').try_fold(0, |flags, name| {
        let flag = match name.to_ascii_lowercase().as_str() {
            "fin" => 1,
            "syn" => 2,
            "rst" => 4,
            "psh" => 8,
            "ack" => 16,
            "urg" => 32,
            _ => return Err(TargetError::Flags),
        };
        Ok(flags | flag)
    })
}

/// Addresses for the names that were given.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Resolved {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) protocol: Protocol,
    pub(super) client_name: Option<String>,
    /// What was assumed.
    pub(super) notes: Vec<String>,
}

/// Finds the addresses of `client` and `destination`.
pub(super) fn resolve(
    client: &Client,
    destination: &Destination,
    names: &Names,
    services: &[ServiceView],
) -> Result<Resolved, CliError> {
    let mut notes = Vec::new();
    let sources = client_addresses(client, names)?;
    let (destinations, protocol) = destinations(destination, services)?;
    let is_pair =
        |source: &IpAddr, destination: &SocketAddr| source.is_ipv4() == destination.is_ipv4();
    let (source, destination) = sources
        .iter()
        .find_map(|source| {
            let destination = destinations
                .iter()
                .find(|destination| is_pair(source, destination))?;
            Some((*source, *destination))
        })
        .ok_or_else(|| CliError::Usage {
            message: "source and destination have no address family in common".to_owned(),
            hint: "give two IPv4 or two IPv6 addresses",
        })?;
    let port = match client {
        Client::Address(_, port) | Client::Pod(_, port) => *port,
    };
    if port.is_none() {
        notes.push(format!(
            "source port {ANY_PORT} assumed; another may get another backend"
        ));
    }
    Ok(Resolved {
        source: SocketAddr::new(source, port.unwrap_or(ANY_PORT)),
        destination,
        protocol,
        client_name: match client {
            Client::Pod(name, _) => Some(name.to_string()),
            Client::Address(address, _) => pod_at(*address, names),
        },
        notes,
    })
}

fn client_addresses(client: &Client, names: &Names) -> Result<Vec<IpAddr>, CliError> {
    let name = match client {
        Client::Address(address, _) => return Ok(vec![*address]),
        Client::Pod(name, _) => name,
    };
    let mut addresses = Vec::new();
    for service in &names.services {
        for endpoint in &service.endpoints {
            if *service.namespace == *name.namespace
                && names.string(endpoint.pod) == Some(&name.name)
                && !addresses.contains(&endpoint.address)
            {
                addresses.push(endpoint.address);
            }
        }
    }
    if addresses.is_empty() {
        return Err(CliError::NotFound {
            what: "Pod",
            name: name.to_string(),
            hint: "only Pods that serve a Service are known by name; give its address",
        });
    }
    Ok(addresses)
}

fn pod_at(address: IpAddr, names: &Names) -> Option<String> {
    names.services.iter().find_map(|service| {
        let endpoint = service
            .endpoints
            .iter()
            .find(|endpoint| endpoint.address == address)?;
        let pod = names.string(endpoint.pod)?;
        Some(title(&service.namespace, pod, ""))
    })
}

fn destinations(
    destination: &Destination,
    services: &[ServiceView],
) -> Result<(Vec<SocketAddr>, Protocol), CliError> {
    let (reference, protocol) = match destination {
        Destination::Address(socket, protocol) => {
            return Ok((vec![*socket], protocol.unwrap_or(DEFAULT_PROTOCOL)));
        }
        Destination::Service(reference, protocol) => (reference, *protocol),
    };
    let mut found = crate::cli::service::find(services.to_vec(), reference)?;
    if let Some(protocol) = protocol {
        found.retain(|view| parse_protocol(view.protocol) == Ok(protocol));
    }
    let first = found.first().ok_or_else(|| CliError::NotFound {
        what: "port of this protocol at Service",
        name: reference.to_string(),
        hint: "steerage service get shows its ports",
    })?;
    let (port_name, protocol) = (first.port_name.clone(), first.protocol);
    if found
        .iter()
        .any(|view| view.port_name != port_name || view.protocol != protocol)
    {
        return Err(CliError::Usage {
            message: format!("{reference} has several ports"),
            hint: "name one, as NAMESPACE/NAME:PORT",
        });
    }
    let addresses = found
        .iter()
        .flat_map(|view| &view.frontends)
        .map(|frontend| frontend.address)
        .collect();
    Ok((
        addresses,
        parse_protocol(protocol).unwrap_or(DEFAULT_PROTOCOL),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_addresses_or_pods() {
        let pod = |port| {
            Client::Pod(
                ObjectName {
                    namespace: "default".into(),
                    name: "client-0".into(),
                },
                port,
            )
        };
        for (text, expected) in [
            ("10.0.1.7", Client::Address([10, 0, 1, 7].into(), None)),
            (
                "10.0.1.7:41000",
                Client::Address([10, 0, 1, 7].into(), Some(41_000)),
            ),
            ("fd00::7", Client::Address("fd00::7".parse().unwrap(), None)),
            (
                "[fd00::7]:41000",
                Client::Address("fd00::7".parse().unwrap(), Some(41_000)),
            ),
            ("default/client-0", pod(None)),
            ("default/client-0:41000", pod(Some(41_000))),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in ["client-0", "10.0.1", "default/client-0:http", ""] {
            assert_eq!(text.parse::<Client>(), Err(TargetError::Client), "{text}");
        }
    }

    #[test]
    fn destinations_are_addresses_or_services() {
        let service =
            |text: &str, protocol| Ok(Destination::Service(text.parse().unwrap(), protocol));
        let address =
            |text: &str, protocol| Ok(Destination::Address(text.parse().unwrap(), protocol));
        for (text, expected) in [
            ("10.96.0.1:80", address("10.96.0.1:80", None)),
            (
                "10.96.0.1:53/udp",
                address("10.96.0.1:53", Some(Protocol::Udp)),
            ),
            (
                "[fd00::1]:80/TCP",
                address("[fd00::1]:80", Some(Protocol::Tcp)),
            ),
            ("default/web", service("default/web", None)),
            ("default/tcp", service("default/tcp", None)),
            (
                "default/web:http/sctp",
                service("default/web:http", Some(Protocol::Sctp)),
            ),
            ("10.96.0.1", Err(TargetError::Destination)),
            ("web", Err(TargetError::Destination)),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
    }

    #[test]
    fn flags_are_those_of_the_header() {
        assert_eq!(parse_flags("syn"), Ok(2));
        assert_eq!(parse_flags("FIN,ack"), Ok(17));
        assert_eq!(parse_flags("syn,"), Err(TargetError::Flags));
    }
}
