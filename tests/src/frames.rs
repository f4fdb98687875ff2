//! One frame's way on the host: what the kernel's XDP program does, over bytes in memory.

use lb_common::decide::{Fate, Passage, Transit, Way, Ways, enter, leave, transit};
use lb_common::family::{Family, V4, V6};
use lb_common::id::Seconds;
use lb_common::onward::{Answer, Question, Routes as _};
use lb_common::packet::Frame;
use lb_common::parse::parse_link;
use lb_common::room::Room;
use lb_common::table::device::DeviceRecord;
use lb_common::tables::Tables as _;
use lb_common::verdict::Reason;
use lb_common::wire::ethernet::Macs;

use crate::tables::MemoryTables;

/// A frame that XDP sends, or ends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Taken {
    /// Interface index of the device by which it is sent; `None` where it ends as at that device's egress.
    pub device: Option<u32>,
    /// As what.
    pub frame: Vec<u8>,
    /// What is counted of it beside the notes, with bytes: as at ingress, then as at egress.
    pub counts: [(Reason, usize); 2],
    /// What is noted on the way.
    pub notes: Vec<Reason>,
    /// Whether a glance told all of it.
    pub is_glanced: bool,
}

/// Runs one frame that comes by the uplink that packets are seen at; `None` where it goes on to tc.
///
/// # Panics
///
/// If it changed the frame nevertheless, or failed half way.
pub fn run_frame(
    tables: &MemoryTables,
    ways: FrameWays<'_>,
    bytes: &[u8],
    now: Seconds,
) -> Option<Taken> {
    let mut frame = bytes.to_vec();
    *tables.frame.borrow_mut() = bytes.to_vec();
    let link = parse_link(&Frame(&mut frame)).ok()?;
    let run = if link.is_v6 {
        through::<V6>(tables, ways, &mut frame, now)
    } else {
        through::<V4>(tables, ways, &mut frame, now)
    };
    assert_ne!(
        run.fate,
        Fate::Broken,
        "what fails has to fail before anything is written"
    );
    let Some(transit) = run
        .transit
        .filter(|_| matches!(run.fate, Fate::Taken | Fate::Ended))
    else {
        assert_eq!(frame, bytes, "what is left alone is left as it is");
        return None;
    };
    frame.truncate(run.length);
    let left = usize::try_from(transit.end()).expect("a usize has 32 bits");
    Some(Taken {
        device: (run.fate == Fate::Taken).then_some(transit.device),
        frame,
        counts: [(transit.arrived, bytes.len()), (transit.left, left)],
        notes: run.notes,
        is_glanced: run.is_glanced,
    })
}

/// What became of a frame.
struct Run {
    fate: Fate,
    transit: Option<Transit>,
    length: usize,
    notes: Vec<Reason>,
    is_glanced: bool,
}

fn through<F: Family>(
    tables: &MemoryTables,
    mut ways: FrameWays<'_>,
    bytes: &mut [u8],
    now: Seconds,
) -> Run {
    let mut room = Room::Empty;
    let mut frame = Frame(bytes);
    let glanced = transit::<F, _>(&mut frame, || now, &tables, &mut ways, &mut room);
    let is_glanced = glanced != Fate::Unclear;
    if is_glanced {
        return Run {
            fate: glanced,
            transit: room.get().copied(),
            length: frame.0.len(),
            notes: vec![Reason::SentOn],
            is_glanced,
        };
    }
    let mut passage = Passage::<F>::default();
    let mut fate = Fate::Left;
    if enter(&mut frame, now, &tables, &mut ways, &mut passage) {
        (&tables).note(Reason::SentOn);
        fate = leave(&mut frame, now, &tables, &mut passage);
    }
    // What is noted of a packet that is left to tc is noted of it there.
    let notes = match fate {
        Fate::Left => Vec::new(),
        _ => tables.notes.take(),
    };
    Run {
        fate,
        transit: passage.transit().copied(),
        length: frame.0.len(),
        notes,
        is_glanced,
    }
}

/// What there is to know around a frame that comes by the device that packets are seen at.
#[derive(Clone, Copy, Debug)]
pub struct FrameWays<'a> {
    /// The tables.
    pub tables: &'a MemoryTables,
    /// Whether it lies in more than one buffer.
    pub is_scattered: bool,
    /// Whether flows begin without tc.
    pub may_begin: bool,
}

impl Ways for FrameWays<'_> {
    fn device(&self) -> u32 {
        self.tables.own
    }

    fn record(&self) -> DeviceRecord {
        self.tables.device
    }

    fn is_scattered(&self) -> bool {
        self.is_scattered
    }

    fn way<F: Family>(&mut self, question: &Question<F>) -> Option<Way> {
        let hop = (&mut &*self.tables).hop(question);
        let record = self.tables.record(hop.device)?;
        matches!(hop.answer, Answer::Known).then_some(Way {
            macs: Macs::of(*self.tables.fib.macs.get(&hop.device)?),
            device: hop.device,
            role: record.role(),
            is_open: record.is_open(),
            takes: record.takes(),
        })
    }

    fn next_device<F: Family>(&mut self, question: &Question<F>) -> Option<u32> {
        let hop = (&mut &*self.tables).hop(question);
        matches!(hop.answer, Answer::Known).then_some(hop.device)
    }

    fn may_begin(&mut self) -> bool {
        self.may_begin
    }
}
