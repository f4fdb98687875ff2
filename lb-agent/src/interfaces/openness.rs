//! Whether packets that a device brings may be sent on at once, and if not, why.

use super::Device;
use crate::settings::Redirect;

/// Why packets that a device brings, and those that it takes, go the plain way.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Closed {
    /// Nobody asked for it.
    #[error("the setting datapath.redirect is Off")]
    Setting,
    /// A bridge learns from what it sees, a bond and a VRF have devices of their own to route by.
    #[error("the device is a port of another one, which would not see the packets")]
    Port,
    /// It would not see them.
    #[error("another program or filter is on the device's ingress hook")]
    Stranger,
    /// It is looked at with the next event, or within half a minute.
    #[error("the device's tc filters have not been read yet")]
    Unknown,
}

/// Whether nothing stands in the way where `clearness` is that of the device.
pub const fn openness(setting: Redirect, clearness: Result<(), Closed>) -> Result<(), Closed> {
    match setting {
        Redirect::Off => Err(Closed::Setting),
        Redirect::On => clearness,
    }
}

/// Whether nobody else looks at what the device brings; `has_strangers` says whether programs of others are
/// on the hook.
pub const fn clearness(device: &Device, has_strangers: bool) -> Result<(), Closed> {
    if device.master.is_some() {
        Err(Closed::Port)
    } else if has_strangers {
        Err(Closed::Stranger)
    } else {
        match device.has_filters {
            None => Err(Closed::Unknown),
            Some(true) => Err(Closed::Stranger),
            Some(false) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_device_that_nobody_else_looks_at_is_open_and_only_if_the_operator_says_so() {
        let plain = Device {
            has_filters: Some(false),
            ..Device::default()
        };
        let port = Device {
            master: Some(7),
            ..plain.clone()
        };
        let filtered = Device {
            has_filters: Some(true),
            ..plain.clone()
        };
        let unread = Device::default();
        for (setting, device, has_strangers, expected) in [
            (Redirect::Off, &plain, false, Err(Closed::Setting)),
            (Redirect::On, &plain, false, Ok(())),
            (Redirect::On, &plain, true, Err(Closed::Stranger)),
            (Redirect::On, &filtered, false, Err(Closed::Stranger)),
            (Redirect::On, &port, false, Err(Closed::Port)),
            (Redirect::On, &unread, false, Err(Closed::Unknown)),
        ] {
            let clearness = clearness(device, has_strangers);
            assert_eq!(openness(setting, clearness), expected);
        }
    }
}
