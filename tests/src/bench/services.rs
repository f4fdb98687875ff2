//! The Services that packets of `datapath` are sent to, as manifests for the agent and as entries
//! for the minimal balancers: both must come to the same answers.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use anyhow::{Context as _, Result};

/// The port that is dialled, by TCP and by UDP.
const PORT: u16 = 80;
/// The port that serves.
const TARGET_PORT: u16 = 8080;

/// A Service of both families with the ports 80/TCP and 80/UDP.
#[derive(Clone, Copy, Debug)]
pub(super) struct Service {
    name: &'static str,
    /// Last number of its addresses.
    number: u8,
    /// Its endpoints are `count` addresses from this on.
    endpoints: (Ipv4Addr, Ipv6Addr),
    count: u8,
}

/// One endpoint, so that a reply's source is known beforehand.
pub(super) const SINGLE: Service = Service {
    name: "single",
    number: 2,
    endpoints: (
        Ipv4Addr::new(10, 200, 0, 1),
        Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, 1),
    ),
    count: 1,
};

/// Ten endpoints, so that a new flow is hashed onto one of them.
pub(super) const MANY: Service = Service {
    name: "many",
    number: 3,
    endpoints: (
        Ipv4Addr::new(10, 200, 1, 0),
        Ipv6Addr::new(0xfd00, 0x200, 0, 1, 0, 0, 0, 0),
    ),
    count: 10,
};

/// Its endpoint is its client.
pub(super) const HAIRPIN: Service = Service {
    name: "hairpin",
    number: 4,
    endpoints: (
        Ipv4Addr::new(10, 201, 0, 1),
        Ipv6Addr::new(0xfd00, 0x201, 0, 0, 0, 0, 0, 1),
    ),
    count: 1,
};

/// One endpoint, which routing tables may lead to by a device of its own.
pub(super) const NEAR: Service = Service {
    name: "near",
    number: 5,
    endpoints: (
        Ipv4Addr::new(10, 202, 0, 1),
        Ipv6Addr::new(0xfd00, 0x202, 0, 0, 0, 0, 0, 1),
    ),
    count: 1,
};

/// All of them.
pub(super) const ALL: [Service; 4] = [SINGLE, MANY, HAIRPIN, NEAR];

impl Service {
    /// What is dialled.
    pub(super) fn dialled(&self, is_v6: bool) -> SocketAddr {
        let address = if is_v6 {
            let last = u16::from(self.number);
            IpAddr::from(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, last))
        } else {
            Ipv4Addr::new(10, 96, 0, self.number).into()
        };
        (address, PORT).into()
    }

    /// Who may answer.
    pub(super) fn endpoints(&self, is_v6: bool) -> Vec<SocketAddr> {
        let (v4, v6) = self.endpoints;
        let endpoint = |number: u8| {
            let address = if is_v6 {
                IpAddr::from(Ipv6Addr::from_bits(v6.to_bits() + u128::from(number)))
            } else {
                Ipv4Addr::from_bits(v4.to_bits() + u32::from(number)).into()
            };
            SocketAddr::new(address, TARGET_PORT)
        };
        (0..self.count).map(endpoint).collect()
    }

    fn manifest(&self) -> String {
        let name = self.name;
        let [v4, v6] = [false, true].map(|is_v6| self.dialled(is_v6).ip());
        let slice = |is_v6: bool| {
            let family = if is_v6 { "IPv6" } else { "IPv4" };
            let endpoints = self.endpoints(is_v6);
            let endpoints = endpoints.iter().map(|endpoint| {
                format!(
                    r#"{{"addresses":["{}"],"nodeName":"other"}}"#,
                    endpoint.ip()
                )
            });
            let endpoints = endpoints.collect::<Vec<_>>().join(",");
            format!(
                r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"{name}-{}","labels":{{"kubernetes.io/service-name":"{name}"}}}},"addressType":"{family}","ports":[{{"name":"t","protocol":"TCP","port":{TARGET_PORT}}},{{"name":"u","protocol":"UDP","port":{TARGET_PORT}}}],"endpoints":[{endpoints}]}}"#,
                family.to_lowercase()
            )
        };
        format!(
            r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"{name}"}},"spec":{{"clusterIP":"{v4}","clusterIPs":["{v4}","{v6}"],"ipFamilies":["IPv4","IPv6"],"ports":[{{"name":"t","protocol":"TCP","port":{PORT},"targetPort":{TARGET_PORT}}},{{"name":"u","protocol":"UDP","port":{PORT},"targetPort":{TARGET_PORT}}}]}}}},{},{}"#,
            slice(false),
            slice(true)
        )
    }
}

/// Adds all of them to a directory of manifests.
pub(super) fn write(directory: &Path) -> Result<()> {
    let objects: Vec<String> = ALL.iter().map(Service::manifest).collect();
    let text = format!(
        r#"{{"apiVersion":"v1","kind":"List","items":[{}]}}"#,
        objects.join(",")
    );
    let path = directory.join("dialled.json");
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}
