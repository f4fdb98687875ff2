//! Keeps XDP programs on uplinks, and on no other device, as far as the settings ask for it.
//!
//! A device is served by tc whatever happens here, so nothing fails: what cannot be is a reason that
//! `status` shows.

use std::collections::BTreeMap;

use lb_common::table::device::{DeviceRecord, Role, Takes};

use crate::dataplane::load::Loaded;
use crate::dataplane::xdp::{XdpError, XdpLinks, XdpMode};
use crate::interfaces::{Device, Devices, NoXdp, takes, wanted_mode};
use crate::settings::{Redirect, Settings, Xdp};

/// The XDP programs' places.
#[derive(Debug)]
pub(super) struct FrameKeeper {
    links: XdpLinks,
    xdp: Xdp,
    redirect: Redirect,
    /// Why XDP does not run on a device, or sends nothing by it.
    reasons: BTreeMap<u32, String>,
    /// What of the settings cannot be.
    problem: Option<String>,
    /// Whether a program has come to a device since this was asked last.
    has_news: bool,
}

/// What a device is to XDP.
pub(super) struct Frames {
    mac: [u8; 6],
    takes: Takes,
    mode: Option<XdpMode>,
}

impl Frames {
    /// Frames are none of the device's business.
    const NONE: Self = Self {
        mac: [0; 6],
        takes: Takes::Nothing,
        mode: None,
    };

    /// `record`, of the device with interface index `index`, which says so.
    pub(super) fn told_by(&self, index: u32, record: DeviceRecord) -> DeviceRecord {
        let is_generic = self.mode == Some(XdpMode::Generic);
        record.with_frames(index, self.mac, self.takes, is_generic)
    }
}

impl FrameKeeper {
    /// Takes over the links that an earlier agent has pinned.
    pub(super) fn new(links: XdpLinks, settings: &Settings) -> Self {
        let mut keeper = Self {
            links,
            xdp: Xdp::Off,
            redirect: Redirect::Off,
            reasons: BTreeMap::new(),
            problem: None,
            has_news: false,
        };
        keeper.set_rules(settings);
        keeper
    }

    /// Takes over other rules; they apply at the next look at the devices.
    pub(super) fn set_rules(&mut self, settings: &Settings) {
        (self.xdp, self.redirect) = (settings.xdp, settings.redirect);
        let is_in_vain = self.xdp != Xdp::Off && self.redirect == Redirect::Off;
        self.problem = is_in_vain.then(|| NoXdp::NeedsRedirect.to_string());
        if let Some(problem) = &self.problem {
            tracing::warn!("{problem}: no XDP program is attached");
        }
    }

    /// Whether it matters which frames devices take.
    pub(super) fn is_on(&self) -> bool {
        self.xdp != Xdp::Off && self.redirect == Redirect::On
    }

    /// What of the settings cannot be.
    pub(super) const fn problem(&self) -> Option<&String> {
        self.problem.as_ref()
    }

    /// The devices that have a program.
    pub(super) fn devices(&self) -> impl Iterator<Item = u32> {
        self.links.devices()
    }

    /// Why XDP does not run on a device, or sends nothing by it.
    pub(super) fn reason(&self, index: u32) -> Option<&String> {
        self.reasons.get(&index)
    }

    /// Whether a program has come to a device since this was asked last: some drivers send frames only
    /// then, so it is worth a look.
    pub(super) const fn take_news(&mut self) -> bool {
        std::mem::replace(&mut self.has_news, false)
    }

    /// What a device with this `record` is to XDP; `has_strangers` says whether programs of others are on
    /// its egress hook. A program that is not wanted there, or in another mode, goes before the record
    /// says anything else.
    pub(super) fn prepare(
        &mut self,
        device: &Device,
        record: DeviceRecord,
        devices: &Devices,
        has_strangers: bool,
    ) -> Frames {
        let (index, settings) = (device.index, (self.xdp, self.redirect));
        let (frames, reason) = if self.is_on() {
            let (takes, no_frames) = takes(device, has_strangers);
            let mode = match record.role() {
                Role::Workload => Ok(None),
                Role::Uplink => {
                    let stands_on = |other: &Device| other.vlan_of == Some(index);
                    let has_vlans = devices.values().any(stands_on);
                    wanted_mode(settings, record.is_open(), has_vlans).map(Some)
                }
            };
            let no_xdp = mode.err().map(|it| it.to_string());
            let matters = self.xdp == Xdp::Native || takes == Takes::Nothing;
            let no_frames = no_frames.filter(|_| matters).map(|it| it.to_string());
            let frames = Frames {
                mac: device.mac,
                takes,
                mode: mode.ok().flatten(),
            };
            (frames, no_xdp.or(no_frames))
        } else {
            (Frames::NONE, None)
        };
        if self.links.mode(index) != frames.mode {
            self.release(index);
        }
        match reason {
            Some(reason) => self.reasons.insert(index, reason),
            None => self.reasons.remove(&index),
        };
        frames
    }

    /// Makes sure that the device has the program that [`Self::prepare`] wants there.
    pub(super) fn keep(&mut self, loaded: &mut Loaded, device: &Device, frames: &Frames) {
        let Some(mode) = frames.mode else {
            return;
        };
        let (index, name) = (device.index, &device.name);
        match self.links.ensure(loaded, index, mode) {
            Ok(true) => {
                self.has_news = true;
                tracing::info!(device = name, index, "attached {} XDP", mode.name());
            }
            // The next look at the devices finds it gone.
            Ok(false) | Err(XdpError::Gone { .. }) => {}
            Err(error) => {
                self.reasons.insert(index, error.to_string());
            }
        }
    }

    /// Takes the program from a device, if it is there.
    pub(super) fn release(&mut self, index: u32) {
        self.reasons.remove(&index);
        if self.links.mode(index).is_none() {
            return;
        }
        match self.links.detach(index) {
            Ok(()) => tracing::info!(index, "detached XDP"),
            Err(error) => tracing::warn!(index, "detaching XDP: {error}"),
        }
    }
}
