//! The kernel's own programs, packet by packet, by `BPF_PROG_TEST_RUN`; and the host's decision on
//! the same tables, which must agree in everything: verdict, bytes, flow tables, fragments, counters.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use lb_agent::clock::flow_seconds;
use lb_common::flow::Hook;
use lb_common::packet::Frame;
use lb_common::parse::{parse, parse_link};
use lb_common::table::device::Role;
use lb_common::verdict::Reason;

use self::kernel::Kernel;
use crate::frames::{self, FrameWays, Taken};
use crate::host::{self, Code, Ended};
use crate::packets::diff;
use crate::tables::{MemoryTables, World};

mod kernel;

/// `XDP_DROP`.
const XDP_DROP: u32 = 1;
/// `XDP_PASS`.
const XDP_PASS: u32 = 2;
/// `XDP_REDIRECT`.
const XDP_REDIRECT: u32 = 4;

/// Loaded once per test binary: the verifier takes seconds.
static KERNEL: OnceLock<Mutex<Kernel>> = OnceLock::new();

/// What one packet did, all of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outcome {
    /// How the packet ended.
    pub ended: Ended,
    /// What was noted on the way.
    pub notes: Vec<Reason>,
    /// Lines of [`host::flows`] that came, with `+`, and went, with `-`; a change is both.
    pub flows: BTreeSet<String>,
}

impl Outcome {
    /// Fails unless the packet went on as `frame`, for this `reason`, and did nothing else than
    /// these changes of flows.
    ///
    /// # Panics
    ///
    /// Otherwise.
    #[track_caller]
    pub fn expect_translated(&self, reason: Reason, frame: &[u8], flows: &BTreeSet<String>) {
        assert_eq!((self.ended.code, self.ended.reason), (Code::Next, reason));
        diff::assert_same(frame, &self.ended.frame);
        assert_eq!(self.flows, *flows);
        assert_eq!(self.notes, []);
    }

    /// The packet ended with `code`, for `reason`, and nothing else changed.
    ///
    /// # Panics
    ///
    /// Otherwise.
    #[track_caller]
    pub fn expect_end(&self, code: Code, reason: Reason) {
        assert_eq!((self.ended.code, self.ended.reason), (code, reason));
        assert_eq!(self.flows, BTreeSet::new());
        assert_eq!(self.notes, []);
    }
}

/// The host's tables and the kernel's, kept equal.
pub struct Bench {
    kernel: MutexGuard<'static, Kernel>,
    /// The host's.
    pub host: MemoryTables,
}

impl Bench {
    /// Fills both with `world`. Other tests of the binary wait until this is dropped.
    pub fn new(world: &World) -> Self {
        let kernel = KERNEL.get_or_init(|| Mutex::new(Kernel::load()));
        let mut kernel = kernel.lock().unwrap_or_else(PoisonError::into_inner);
        let host = MemoryTables::new(world);
        kernel.copy(&host);
        Self { kernel, host }
    }

    /// Packets are seen at this one of the world's devices from now on.
    pub fn stand_at(&mut self, device: u32) {
        self.host.stand_at(device);
    }

    /// Changes both.
    pub fn change(&mut self, change: impl FnOnce(&mut MemoryTables)) {
        change(&mut self.host);
        self.kernel.copy(&self.host);
    }

    /// Sends a packet through both, seen at a workload's device.
    ///
    /// # Panics
    ///
    /// If they disagree in anything, or test-run takes no frame of this length.
    #[track_caller]
    pub fn send(&mut self, hook: Hook, frame: &[u8]) -> Outcome {
        self.send_at((Role::Workload, hook), frame)
    }

    /// Sends a packet through both, seen at this side of such a device.
    ///
    /// # Panics
    ///
    /// If they disagree in anything, or test-run takes no frame of this length.
    #[track_caller]
    pub fn send_at(&mut self, place: (Role, Hook), frame: &[u8]) -> Outcome {
        let outcome = self.send_if_taken(place, frame);
        outcome
            .1
            .then_some(outcome.0)
            .expect("test-run takes the frame")
    }

    /// Sends a packet through the host's decision, and through the kernel's if test-run takes a
    /// frame of this length; says whether it did.
    ///
    /// # Panics
    ///
    /// If they disagree in anything.
    #[track_caller]
    pub fn send_if_taken(&mut self, place: (Role, Hook), frame: &[u8]) -> (Outcome, bool) {
        // Entries are stamped with the second, which must be one for both.
        let (now, ran) = loop {
            self.kernel.reset(&self.host);
            let now = flow_seconds();
            let ran = self
                .kernel
                .run(place, self.host.own, self.host.is_of_host.get(), frame);
            if flow_seconds() == now {
                break (now, ran);
            }
        };
        if let Some((_, out)) = &ran
            && let Some(port) = changed_port(frame, out)
        {
            self.host.random.set(random_for(port));
        }
        let before = host::flows(&self.host);
        self.host.forget_notes();
        let ended = host::run_at(&self.host, place, frame, now);
        if let Some((code, out)) = &ran {
            self.compare(&ended, *code, out, frame);
        }
        let after = host::flows(&self.host);
        let gone = before.difference(&after).map(|line| format!("-{line}"));
        let came = after.difference(&before).map(|line| format!("+{line}"));
        let outcome = Outcome {
            ended,
            notes: self.host.notes.borrow().clone(),
            flows: gone.chain(came).collect(),
        };
        (outcome, ran.is_some())
    }

    /// Lets frames come by `device`, for as long as what is given lives.
    #[must_use]
    pub fn attach_frames(&mut self, device: u32) -> OwnedFd {
        self.kernel.attach_frames(device)
    }

    /// Sends a frame through both, that comes by the uplink that packets are seen at; gives what XDP sends,
    /// if it takes it.
    ///
    /// # Panics
    ///
    /// If the two disagree in anything.
    #[track_caller]
    pub fn send_frame(&mut self, frame: &[u8]) -> Option<Taken> {
        let (now, (code, out)) = loop {
            self.kernel.reset(&self.host);
            let now = flow_seconds();
            let ran = self.kernel.run_frame(self.host.own, frame)?;
            if flow_seconds() == now {
                break (now, ran);
            }
        };
        if let Some(port) = changed_port(frame, &out) {
            self.host.random.set(random_for(port));
        }
        self.host.forget_notes();
        let ways = FrameWays {
            tables: &self.host,
            is_scattered: false,
            // The kernel leaves some to tc by lot.
            may_begin: code != XDP_PASS,
        };
        let taken = frames::run_frame(&self.host, ways, frame, now);
        let mut counts: BTreeMap<Reason, (u64, u64)> = BTreeMap::new();
        let mut count = |reason, bytes: usize| {
            let (packets, sum) = counts.entry(reason).or_default();
            *packets += 1;
            *sum += u64::try_from(bytes).expect("a frame is short");
        };
        let (expected, left) = match &taken {
            None => (XDP_PASS, frame),
            Some(taken) => {
                for (reason, bytes) in taken.counts {
                    count(reason, bytes);
                }
                for &note in taken.notes.iter().chain(&[Reason::ByXdp]) {
                    count(note, 0);
                }
                match taken.device {
                    Some(_) => (XDP_REDIRECT, &*taken.frame),
                    None => (XDP_DROP, frame),
                }
            }
        };
        assert_eq!(
            (self.kernel.counts(), code),
            (counts, expected),
            "the kernel's action is on the left, the host's on the right"
        );
        diff::assert_same(left, &out);
        self.compare_tables();
        taken
    }

    #[track_caller]
    fn compare(&self, ended: &Ended, code: Code, out: &[u8], frame: &[u8]) {
        let bytes = u64::try_from(frame.len()).expect("a frame is short");
        let mut counts = BTreeMap::from([(ended.reason, (1, bytes))]);
        for &note in self.host.notes.borrow().iter() {
            counts.entry(note).or_insert((0, 0)).0 += 1;
        }
        assert_eq!(
            (self.kernel.counts(), code),
            (counts, ended.code),
            "the kernel's verdict is on the left, the host's on the right"
        );
        // A dropped frame may be half changed.
        if code != Code::Drop {
            assert!(
                out == ended.frame,
                "the kernel's frame differs from the host's:\n{}",
                diff::diff(&ended.frame, out)
            );
        }
        self.compare_tables();
    }

    #[expect(
        clippy::significant_drop_tightening,
        reason = "borrows of tables that nobody writes meanwhile"
    )]
    #[track_caller]
    fn compare_tables(&self) {
        let kernel = &self.kernel;
        for (name, words) in [
            ("FLOWS_V4", &self.host.flows_v4),
            ("FLOWS_V6", &self.host.flows_v6),
        ] {
            let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
            let is_same = kernel
                .words(name)
                .iter()
                .map(load)
                .eq(words.iter().map(load));
            assert!(is_same, "{name}: the kernel's words differ from the host's");
        }
        assert_eq!(kernel.fragments(), *self.host.fragments.borrow());
        assert_eq!(kernel.affinity(), *self.host.affinity.borrow());
        let opened = self.host.opened.borrow().clone();
        let services = opened.iter().map(|(service, _)| (service.index(), 1));
        assert_eq!(kernel.opened("SERVICE_STATS"), services.collect::<Vec<_>>());
        let backends = opened.iter().map(|(_, backend)| (backend.index(), 1));
        assert_eq!(kernel.opened("BACKEND_STATS"), backends.collect::<Vec<_>>());
    }
}

/// The source port that came out, if it is another than went in.
fn changed_port(frame: &[u8], out: &[u8]) -> Option<u16> {
    let port = |frame: &[u8]| {
        let mut frame = frame.to_vec();
        let frame = Frame(&mut frame);
        let link = parse_link(&frame).ok()?;
        if link.is_v6 {
            let packet = parse::<lb_common::family::V6>(&frame, link.l3).ok()?;
            Some(packet.tuple()?.source_port)
        } else {
            let packet = parse::<lb_common::family::V4>(&frame, link.l3).ok()?;
            Some(packet.tuple()?.source_port)
        }
    };
    let (before, after) = (port(frame)?, port(out)?);
    (before != after).then_some(after)
}

/// A random number that makes a decision choose `port`: the least one of those that do.
fn random_for(port: u16) -> u32 {
    let number = u64::from(port.saturating_sub(1024)) << 32;
    u32::try_from(number.div_ceil(28_976)).unwrap_or(u32::MAX)
}
