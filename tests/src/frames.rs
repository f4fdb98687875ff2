//! One frame's way on the host: what the kernel's XDP program does, over bytes in memory.

use lb_common::decide::{Fate, Transit, Way, Ways, transit};
use lb_common::family::{Family, V4, V6};
use lb_common::id::Seconds;
use lb_common::onward::{Answer, Question, Routes as _};
use lb_common::packet::Frame;
use lb_common::parse::parse_link;
use lb_common::room::Room;
use lb_common::table::device::DeviceRecord;
use lb_common::verdict::Reason;

use crate::tables::MemoryTables;

/// A frame that XDP sends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Taken {
    /// Interface index of the device by which it is sent.
    pub device: u32,
    /// As what.
    pub frame: Vec<u8>,
    /// What is counted of it beside the notes, with bytes: as at ingress, then as at egress.
    pub counts: [(Reason, usize); 2],
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
    let link = parse_link(&Frame(&mut frame)).ok()?;
    let mut room = Room::Empty;
    let (fate, length) = if link.is_v6 {
        through::<V6>(tables, ways, &mut frame, now, &mut room)
    } else {
        through::<V4>(tables, ways, &mut frame, now, &mut room)
    };
    assert_ne!(
        fate,
        Fate::Broken,
        "what fails has to fail before anything is written"
    );
    if fate == Fate::Left {
        assert_eq!(frame, bytes, "what is left alone is left as it is");
        return None;
    }
    frame.truncate(length);
    let Transit {
        device,
        arrived,
        left,
        ..
    } = *room.get()?;
    Some(Taken {
        device,
        frame,
        counts: [(arrived, bytes.len()), (left, length)],
    })
}

fn through<F: Family>(
    tables: &MemoryTables,
    mut ways: FrameWays<'_>,
    bytes: &mut [u8],
    now: Seconds,
    room: &mut Room<Transit>,
) -> (Fate, usize) {
    let mut frame = Frame(bytes);
    let fate = transit::<F, _>(&mut frame, || now, &tables, &mut ways, room);
    (fate, frame.0.len())
}

/// What there is to know around a frame that comes by the device that packets are seen at.
#[derive(Clone, Copy, Debug)]
pub struct FrameWays<'a> {
    /// The tables.
    pub tables: &'a MemoryTables,
    /// Whether it lies in more than one buffer.
    pub is_scattered: bool,
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
            macs: *self.tables.fib.macs.get(&hop.device)?,
            device: hop.device,
            role: record.role(),
            takes: record.takes(),
        })
    }
}
