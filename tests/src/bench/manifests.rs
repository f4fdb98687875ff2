//! The manifests of a large cluster, of which every address is its own.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// Endpoints of each Service, per family.
pub(super) const ENDPOINTS: u32 = 10;

/// Services in one file: a change of one rewrites these.
const SERVICES_PER_FILE: u32 = 50;

/// How the files are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Format {
    /// A `List` per file, without blanks.
    Json,
    /// A document per object, as `kubectl get -o yaml` indents it.
    Yaml,
}

/// A directory of manifests for `services` Services.
#[derive(Debug)]
pub(super) struct Manifests {
    /// What the agent reads.
    pub(super) directory: PathBuf,
    staging: PathBuf,
    format: Format,
    services: u32,
}

impl Manifests {
    /// Writes all of them below `parent`.
    pub(super) fn write(parent: &Path, format: Format, services: u32) -> Result<Self> {
        let name = match format {
            Format::Json => "json",
            Format::Yaml => "yaml",
        };
        let manifests = Self {
            directory: parent.join(name),
            staging: parent.join(format!("{name}.new")),
            format,
            services,
        };
        fs::create_dir(&manifests.directory)
            .with_context(|| format!("make {}", manifests.directory.display()))?;
        for first in (0..services).step_by(usize::try_from(SERVICES_PER_FILE)?) {
            manifests.replace(first, 0)?;
        }
        Ok(manifests)
    }

    /// Writes the file of Service `service` in one step; the first endpoint of that Service is
    /// number `version` of those it could be.
    pub(super) fn replace(&self, service: u32, version: u32) -> Result<()> {
        let first = service / SERVICES_PER_FILE * SERVICES_PER_FILE;
        let mut objects = Vec::new();
        for index in first..(first + SERVICES_PER_FILE).min(self.services) {
            let version = if index == service { version } else { 0 };
            objects.push(self.service(index));
            objects.push(self.slice(index, false, version));
            objects.push(self.slice(index, true, version));
        }
        let (text, extension) = match self.format {
            Format::Json => (
                format!(
                    r#"{{"apiVersion":"v1","kind":"List","items":[{}]}}"#,
                    objects.join(",")
                ),
                "json",
            ),
            Format::Yaml => (objects.join("---\n"), "yaml"),
        };
        let path = self.directory.join(format!("{first:06}.{extension}"));
        fs::write(&self.staging, text).context("write a manifest")?;
        fs::rename(&self.staging, &path).with_context(|| format!("write {}", path.display()))
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> Result<u64> {
        let entries = fs::read_dir(&self.directory)?;
        entries.map(|entry| Ok(entry?.metadata()?.len())).sum()
    }

    fn service(&self, index: u32) -> String {
        let v4 = Ipv4Addr::from_bits(0x0a60_0100 + index);
        let v6 = Ipv6Addr::from_bits((0xfd00_0010_0096 << 80) + 0x100 + u128::from(index));
        match self.format {
            Format::Json => format!(
                r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"service-{index}","namespace":"default"}},"spec":{{"type":"ClusterIP","clusterIP":"{v4}","clusterIPs":["{v4}","{v6}"],"ipFamilies":["IPv4","IPv6"],"selector":{{"app":"service-{index}"}},"ports":[{{"name":"http","protocol":"TCP","port":80,"targetPort":8080}}]}}}}"#
            ),
            Format::Yaml => format!(
                "apiVersion: v1\nkind: Service\nmetadata:\n  name: service-{index}\n  \
                 namespace: default\nspec:\n  type: ClusterIP\n  clusterIP: {v4}\n  clusterIPs:\n  \
                 - {v4}\n  - \"{v6}\"\n  ipFamilies:\n  - IPv4\n  - IPv6\n  selector:\n    \
                 app: service-{index}\n  ports:\n  - name: http\n    protocol: TCP\n    port: 80\n    \
                 targetPort: 8080\n"
            ),
        }
    }

    fn slice(&self, index: u32, is_v6: bool, version: u32) -> String {
        let family = if is_v6 { "IPv6" } else { "IPv4" };
        let mut text = match self.format {
            Format::Json => format!(
                r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"service-{index}-{}","namespace":"default","labels":{{"kubernetes.io/service-name":"service-{index}"}}}},"addressType":"{family}","ports":[{{"name":"http","protocol":"TCP","port":8080}}],"endpoints":["#,
                family.to_lowercase()
            ),
            Format::Yaml => format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
                 name: service-{index}-{}\n  namespace: default\n  labels:\n    \
                 kubernetes.io/service-name: service-{index}\naddressType: {family}\nports:\n- \
                 name: http\n  protocol: TCP\n  port: 8080\nendpoints:\n",
                family.to_lowercase()
            ),
        };
        for member in 0..ENDPOINTS {
            let moved = if member == 0 { version } else { 0 };
            self.endpoint(&mut text, index, member, is_v6, moved);
        }
        if self.format == Format::Json {
            text += "]}";
        }
        text
    }

    fn endpoint(&self, text: &mut String, index: u32, member: u32, is_v6: bool, moved: u32) {
        let number = index * ENDPOINTS + member + moved * 0x10_0000;
        let node = number % 100;
        let address = if is_v6 {
            Ipv6Addr::from_bits((0xfd00_0010_0244 << 80) + u128::from(number)).to_string()
        } else {
            Ipv4Addr::from_bits(0x0a80_0000 + number).to_string()
        };
        // Writing to a string cannot fail.
        match self.format {
            Format::Json => write!(
                text,
                r#"{}{{"addresses":["{address}"],"conditions":{{"ready":true,"serving":true,"terminating":false}},"nodeName":"node-{node}","targetRef":{{"kind":"Pod","namespace":"default","name":"service-{index}-{member}"}}}}"#,
                if member == 0 { "" } else { "," }
            ),
            Format::Yaml => write!(
                text,
                "- addresses:\n  - \"{address}\"\n  conditions:\n    ready: true\n    serving: true\n    \
                 terminating: false\n  nodeName: node-{node}\n  targetRef:\n    kind: Pod\n    \
                 namespace: default\n    name: service-{index}-{member}\n"
            ),
        }
        .ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_service_differs_in_its_first_endpoints_alone() {
        let directory = tempfile::tempdir().unwrap();
        for format in [Format::Json, Format::Yaml] {
            let manifests = Manifests::write(directory.path(), format, 60).unwrap();
            assert_eq!(fs::read_dir(&manifests.directory).unwrap().count(), 2);
            let before = manifests.bytes().unwrap();
            manifests.replace(3, 1).unwrap();
            let extension = if format == Format::Json {
                "json"
            } else {
                "yaml"
            };
            let path = manifests.directory.join(format!("000000.{extension}"));
            let text = fs::read_to_string(path).unwrap();
            assert!(!text.contains("10.128.0.30\"") && text.contains("10.144.0.30\""));
            assert!(text.contains("10.128.0.40\""));
            assert!(before > 10_000);
        }
    }
}
