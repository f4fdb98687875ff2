//! Whether XDP may run on a device, and which frames it may have a device send; if not, why.

use lb_common::table::device::Takes;

use super::Device;
use crate::dataplane::xdp::XdpMode;
use crate::settings::{Redirect, Xdp};

/// `NETDEV_XDP_ACT_NDO_XMIT`: the driver sends frames.
const SENDS: u64 = 1 << 2;
/// `NETDEV_XDP_ACT_NDO_XMIT_SG`: also those in several buffers.
const SENDS_SCATTERED: u64 = 1 << 6;
/// Root qdiscs that send what they have as soon as the device takes it: to pass one by changes nothing.
const HARMLESS_QDISCS: [&str; 5] = ["noqueue", "mq", "pfifo_fast", "fq", "fq_codel"];

/// Why no XDP program is wanted on an uplink.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoXdp {
    /// Nobody asked for it.
    #[error("the setting datapath.xdp is Off")]
    Setting,
    /// The operator must turn both on, or this off.
    #[error("datapath.xdp takes what datapath.redirect sends on at once, and that is Off")]
    NeedsRedirect,
    /// What stands in the way says [`super::Closed`].
    #[error("its packets are not sent on at once")]
    Closed,
    /// The operator may set `Generic`, where the tag is known.
    #[error(
        "VLAN devices stand on it, whose packets native XDP may get without their tags (datapath.xdp: \
         Generic sees them)"
    )]
    Vlans,
}

/// In which mode the program is wanted on an uplink; `has_vlans` says whether VLAN devices stand on it.
pub const fn wanted_mode(
    (xdp, redirect): (Xdp, Redirect),
    is_open: bool,
    has_vlans: bool,
) -> Result<XdpMode, NoXdp> {
    match (xdp, redirect) {
        (Xdp::Off, _) => Err(NoXdp::Setting),
        (_, Redirect::Off) => Err(NoXdp::NeedsRedirect),
        _ if !is_open => Err(NoXdp::Closed),
        (Xdp::Native, _) if has_vlans => Err(NoXdp::Vlans),
        (Xdp::Native, _) => Ok(XdpMode::Native),
        (Xdp::Generic, _) => Ok(XdpMode::Generic),
    }
}

/// Why XDP has a device send nothing, or only what generic XDP sees.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoFrames {
    /// It is looked at with the next event, or within half a minute.
    #[error("XDP sends nothing by it: its egress hook has not been looked at yet")]
    Unknown,
    /// It would not see them.
    #[error("XDP sends nothing by it: another program or filter is on the device's egress hook")]
    Stranger,
    /// It would not shape them.
    #[error("XDP sends nothing by it: its qdisc {kind} would not see it")]
    Qdisc {
        /// The root qdisc's kind.
        kind: String,
    },
    /// A newer kernel says.
    #[error("native XDP sends nothing by it: this kernel does not say whether it can (6.3 does)")]
    Untold,
    /// For a pod's device the CNI must turn on GRO at the pod's end.
    #[error(
        "native XDP sends nothing by it: its driver sends no frames (a veth does once its other end has \
         GRO on, or an XDP program)"
    )]
    Driver,
}

/// Which frames a device takes, and why not more; `has_strangers` says whether programs of others are on
/// its egress hook.
pub fn takes(device: &Device, has_strangers: bool) -> (Takes, Option<NoFrames>) {
    let nothing = |why| (Takes::Nothing, Some(why));
    match device.has_egress_filters {
        None => return nothing(NoFrames::Unknown),
        Some(has_filters) if has_filters || has_strangers => return nothing(NoFrames::Stranger),
        Some(_) => {}
    }
    if !HARMLESS_QDISCS.contains(&&*device.qdisc) {
        let kind = device.qdisc.clone();
        return nothing(NoFrames::Qdisc { kind });
    }
    match device.xdp_features {
        None => (Takes::Packets, Some(NoFrames::Untold)),
        Some(features) if features & SENDS == 0 => (Takes::Packets, Some(NoFrames::Driver)),
        Some(features) if features & SENDS_SCATTERED == 0 => (Takes::Frames, None),
        Some(_) => (Takes::AllFrames, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn veth() -> Device {
        Device {
            qdisc: "noqueue".into(),
            has_egress_filters: Some(false),
            xdp_features: Some(SENDS | SENDS_SCATTERED),
            ..Device::default()
        }
    }

    #[test]
    fn a_program_is_wanted_where_packets_are_sent_on_and_tags_are_known() {
        use Redirect::{Off, On};
        for (settings, is_open, has_vlans, expected) in [
            ((Xdp::Off, On), true, false, Err(NoXdp::Setting)),
            ((Xdp::Off, Off), false, false, Err(NoXdp::Setting)),
            ((Xdp::Native, Off), true, false, Err(NoXdp::NeedsRedirect)),
            ((Xdp::Generic, Off), true, false, Err(NoXdp::NeedsRedirect)),
            ((Xdp::Native, On), false, false, Err(NoXdp::Closed)),
            ((Xdp::Native, On), true, true, Err(NoXdp::Vlans)),
            ((Xdp::Generic, On), true, true, Ok(XdpMode::Generic)),
            ((Xdp::Native, On), true, false, Ok(XdpMode::Native)),
        ] {
            assert_eq!(wanted_mode(settings, is_open, has_vlans), expected);
        }
    }

    #[test]
    fn a_device_takes_frames_if_its_driver_does_and_nobody_has_to_see_them_leave() {
        assert_eq!(takes(&veth(), false), (Takes::AllFrames, None));
        let check = |device: Device, has_strangers, expected, why| {
            assert_eq!(takes(&device, has_strangers), (expected, Some(why)));
        };
        check(veth(), true, Takes::Nothing, NoFrames::Stranger);
        let with = |change: fn(&mut Device)| {
            let mut device = veth();
            change(&mut device);
            device
        };
        let unread = with(|device| device.has_egress_filters = None);
        check(unread, false, Takes::Nothing, NoFrames::Unknown);
        let filtered = with(|device| device.has_egress_filters = Some(true));
        check(filtered, false, Takes::Nothing, NoFrames::Stranger);
        let shaped = with(|device| device.qdisc = "tbf".into());
        let kind = "tbf".to_owned();
        check(shaped, false, Takes::Nothing, NoFrames::Qdisc { kind });
        let untold = with(|device| device.xdp_features = None);
        check(untold, false, Takes::Packets, NoFrames::Untold);
        let deaf = with(|device| device.xdp_features = Some(0b11));
        check(deaf, false, Takes::Packets, NoFrames::Driver);
        let short = with(|device| device.xdp_features = Some(SENDS));
        assert_eq!(takes(&short, false), (Takes::Frames, None));
    }
}
