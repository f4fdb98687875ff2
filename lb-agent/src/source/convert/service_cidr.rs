//! `networking.k8s.io/v1` `ServiceCIDR`.

use std::net::IpAddr;

use k8s_openapi::api::networking::v1::ServiceCIDR;

use super::{Notes, address, cluster_name};
use crate::source::intern::Interner;
use crate::source::report::FieldProblem;

/// The object's networks, in its order.
pub fn convert(
    object: &ServiceCIDR,
    _interner: &mut Interner,
    notes: &mut Notes,
) -> Result<Option<Vec<(IpAddr, u8)>>, FieldProblem> {
    cluster_name(&object.metadata)?;
    let cidrs = object
        .spec
        .as_ref()
        .and_then(|spec| spec.cidrs.as_deref())
        .unwrap_or_default();
    Ok(Some(address::parse_networks(cidrs, "spec.cidrs", notes)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn networks_keep_their_order_and_bad_ones_are_noted() {
        let object = serde_json::from_value(json!({
            "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": ["172.30.0.0/16", "fd00:10:96::/112", "172.50.0.0", "10.0.0.0/8"]},
        }))
        .unwrap();
        let mut notes = Notes::new();
        let networks = convert(&object, &mut Interner::default(), &mut notes)
            .unwrap()
            .unwrap();
        let networks: Vec<_> = networks
            .iter()
            .map(|(address, length)| format!("{address}/{length}"))
            .collect();
        assert_eq!(
            networks,
            ["172.30.0.0/16", "fd00:10:96::/112", "10.0.0.0/8"]
        );
        assert_eq!(notes.len(), 1);
        assert_eq!(notes[0].field, "spec.cidrs[2]");
    }
}
