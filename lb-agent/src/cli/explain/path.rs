//! How packets of a flow leave the hook: routed by the host, bridged, or sent on at once.

use lb_common::flow::Path;
use lb_common::table::device::Role;

use crate::cli::inputs::DeviceInput;

use super::way::name;

/// How packets of a flow that is known leave.
pub(super) fn of_flow(path: Path) -> String {
    match path {
        Path::Routed => "the host routes the packets of this flow",
        Path::Bridged => "client and backend share a bridge, which takes the packets of this flow",
        Path::SentOn => {
            "packets of this flow are sent on at once, past the host's filters, whatever the settings \
             say by now"
        }
        Path::OfHost => "the client is this node itself: packets are sent to the backend from the uplink that \
                         they leave by, and answers handed to this node as if they had come by it",
    }
    .to_owned()
}

/// What is known of a backend's address.
#[derive(Clone, Copy, Debug)]
pub(super) struct BackendGround {
    /// It is in a cluster CIDR.
    pub(super) is_pods: bool,
    /// It is a host's, unless it is this node's.
    pub(super) is_host: bool,
}

/// How those of a new one would, that come by one device and leave by the other to such a backend.
pub(super) fn of_new(
    entrance: Option<&DeviceInput>,
    exit: Option<&DeviceInput>,
    backend: BackendGround,
) -> String {
    let (Some(entrance), Some(exit)) = (entrance, exit) else {
        return "the host routes the packets: not both ways lead over a device with programs"
            .to_owned();
    };
    let leads_to_host = backend.is_host
        && [entrance, exit]
            .into_iter()
            .all(|device| device.is_clear && device.role == Some(Role::Uplink));
    if leads_to_host {
        return format!(
            "the backend has a host's address, which node filters seldom accept: packets are sent on at \
             once, in by {} and out by {}, past the host's filters",
            name(entrance),
            name(exit)
        );
    }
    for device in [entrance, exit] {
        if !device.is_open {
            let name = name(device);
            return match &device.plain {
                Some(why) => format!("the host routes the packets: {name}: {why}"),
                None => format!("the host routes the packets: {name} is closed"),
            };
        }
    }
    if entrance.role == Some(Role::Workload) && exit.role == Some(Role::Uplink) && !backend.is_pods
    {
        return "the host routes the packets: the backend's address is in no cluster CIDR, and what \
                leaves for such addresses is often masqueraded"
            .to_owned();
    }
    format!(
        "packets are sent on at once, in by {} and out by {}, past the host's filters, if the host knows \
         both neighbours",
        name(entrance),
        name(exit)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: u32, role: Role, plain: Option<&str>) -> DeviceInput {
        DeviceInput {
            index,
            name: Some(format!("d{index}")),
            role: Some(role),
            why: None,
            obstacle: None,
            is_open: plain.is_none(),
            is_clear: plain.is_none(),
            plain: plain.map(str::to_owned),
            xdp: None,
            no_xdp: None,
            sources: Vec::new(),
            bridge: None,
            has_ingress: true,
            has_egress: true,
        }
    }

    #[test]
    fn what_stands_in_the_way_of_a_new_flow_is_named() {
        let (pod, other) = (
            device(1, Role::Workload, None),
            device(2, Role::Workload, None),
        );
        let uplink = device(3, Role::Uplink, None);
        let closed = device(4, Role::Uplink, Some("the setting is off"));
        for (entrance, exit, is_pods, expected) in [
            (Some(&pod), Some(&other), false, "in by d1 and out by d2"),
            (
                Some(&uplink),
                Some(&uplink),
                false,
                "in by d3 and out by d3",
            ),
            (Some(&pod), Some(&uplink), true, "in by d1 and out by d3"),
            (Some(&pod), Some(&uplink), false, "no cluster CIDR"),
            (Some(&pod), Some(&closed), true, "d4: the setting is off"),
            (Some(&closed), Some(&pod), true, "d4: the setting is off"),
            (Some(&pod), None, true, "not both ways"),
        ] {
            let backend = BackendGround {
                is_pods,
                is_host: false,
            };
            let told = of_new(entrance, exit, backend);
            assert!(told.contains(expected), "{told}");
        }
    }

    #[test]
    fn what_goes_from_outside_to_a_host_is_sent_on_where_nobody_else_looks() {
        let pod = device(1, Role::Workload, None);
        let closed = device(2, Role::Uplink, Some("the setting is off"));
        let clear = DeviceInput {
            is_clear: true,
            ..closed.clone()
        };
        for (entrance, exit, expected) in [
            (&clear, &clear, "a host's address"),
            (&clear, &closed, "the setting is off"),
            (&closed, &clear, "the setting is off"),
            (&pod, &clear, "the setting is off"),
            (&clear, &pod, "the setting is off"),
        ] {
            let backend = BackendGround {
                is_pods: false,
                is_host: true,
            };
            let told = of_new(Some(entrance), Some(exit), backend);
            assert!(told.contains(expected), "{told}");
        }
    }
}
