//! The ranges of addresses that programs know: of services, of pods, and of other nodes' hosts.

use std::net::IpAddr;

use lb_common::table::config::{CLUSTER_CIDR_COUNTS, CLUSTER_CIDRS_V4, HOST_CIDR_COUNTS};

use super::Agent;
use super::config::{self, CidrWords, ConfigWord, Purpose};
use super::objects::ModelObjects;
use crate::dataplane::{Dataplane as _, Write};
use crate::interfaces::networks;
use crate::plan::hosts::host_networks;

/// What the words of ranges follow from.
pub(crate) struct Ranges<'a> {
    /// Of services, by the settings.
    pub(crate) services: &'a [(IpAddr, u8)],
    /// Of services, by the objects.
    pub(crate) service_objects: &'a [(IpAddr, u8)],
    /// Of clients that are the cluster's wherever they come from.
    pub(crate) pods: &'a [(IpAddr, u8)],
    /// Outside of which no pod of the cluster has an address.
    pub(crate) cluster_wide: &'a [(IpAddr, u8)],
    /// The Node's `podCIDRs`.
    pub(crate) of_node: &'a [(IpAddr, u8)],
    /// The networks on which the Node has its addresses.
    pub(crate) links: &'a [(IpAddr, u8)],
}

impl Ranges<'_> {
    /// The words, in the order of writing.
    pub(crate) fn words(&self) -> CidrWords {
        let mut services = self.services.to_vec();
        services.extend_from_slice(self.service_objects);
        let mut words = config::cidrs(Purpose::Service, &services);
        // There is at most one of a family, so all fit.
        let pods = config::cidrs(Purpose::Cluster, self.pods);
        words.words.extend(pods.words);
        // What does not fit is left to the node's filters, as all of it was before.
        let hosts = host_networks(self.cluster_wide, self.of_node, self.links);
        let hosts = config::cidrs(Purpose::Host, &hosts);
        words.words.extend(hosts.words);
        words
    }
}

impl Agent {
    /// The words of ranges, as settings, objects and devices have them.
    pub(super) fn range_words(&self) -> CidrWords {
        let of_node = self.model.pod_cidrs();
        let addresses = ModelObjects(&self.model).node_view().addresses;
        Ranges {
            services: &self.settings.service_cidrs,
            service_objects: self.model.service_cidrs(),
            pods: self.settings.services.pods(of_node),
            cluster_wide: self.settings.services.cluster_wide(),
            of_node,
            links: &networks(&self.devices, addresses),
        }
        .words()
    }

    /// Writes the words of ranges that are not as they should be. While those of pods change no address is a
    /// host's: hosts are what pods are not.
    pub(super) fn write_cidrs(&mut self) {
        let CidrWords { words, left_out } = self.range_words();
        for (network, length) in &left_out {
            tracing::warn!(
                "no room for service CIDR {network}/{length}: addresses in it that no Service has are not dropped"
            );
        }
        let dataplane = self.reconciler.dataplane_mut();
        let differs = |&(word, value): &ConfigWord| dataplane.config(word) != value;
        let mut changes: Vec<_> = words.iter().copied().filter(differs).collect();
        let hosts = words.iter().find(|(word, _)| *word == HOST_CIDR_COUNTS);
        let is_of_pods = |word: u32| word == CLUSTER_CIDR_COUNTS || word >= CLUSTER_CIDRS_V4;
        if changes.iter().any(|(word, _)| is_of_pods(*word)) {
            changes.insert(0, (HOST_CIDR_COUNTS, 0));
            changes.extend(hosts);
        }
        for (word, value) in changes {
            if dataplane.config(word) != value
                && let Err(error) = dataplane.apply(&Write::SetConfig { word, value })
            {
                tracing::error!("{error}");
            }
        }
    }
}
