//! The driver: a packet of its own for each run of a test.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, ProgramArray};
use lb_common::course::{self, Course, HEADER};

use crate::medium::Medium;

/// The course that is being run.
#[map]
static COURSE: Array<Course> = Array::with_max_entries(1, 0);
/// The program under test, one for tc.
#[map]
pub(crate) static UNDER_TEST: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// The same, one for XDP: such an array holds programs of one kind.
#[map]
pub(crate) static FRAMES_TEST: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Makes the packet, and ends in the program under test.
#[inline(always)]
pub(crate) fn run<C: Medium>(ctx: &C, under_test: &ProgramArray) -> C::Action {
    let Some(course) = COURSE.get_ptr_mut(0) else {
        return C::DROP;
    };
    // SAFETY: the map's only value; the bench writes it before a run, and runs one at a time.
    let course = unsafe { &mut *course };
    prepare(course);
    if !ctx.restore(&mut course.header) {
        return C::DROP;
    }
    // SAFETY: nothing here has to be dropped; without a program in the map the call does nothing.
    unsafe { under_test.tail_call(ctx, 0) };
    C::DROP
}

/// Fills in the client whose turn it is.
#[inline(always)]
fn prepare(course: &mut Course) {
    let flow = course.turn(course.position);
    course.position = course.position.wrapping_add(1);
    let (address, port) = course::client(flow);
    let address = course.base.wrapping_add(address);
    let varying = (address >> 16).wrapping_add(address & 0xffff);
    if course.ip_checksum != 0 {
        let checksum = course::finished(course.ip_sum.wrapping_add(varying));
        put(course, course.ip_checksum, checksum.to_be_bytes());
    }
    let sum = course
        .l4_sum
        .wrapping_add(varying)
        .wrapping_add(u32::from(port));
    // A UDP checksum of 0 would mean that there is none; to TCP both are one number.
    let checksum = match course::finished(sum) {
        0 => u16::MAX,
        checksum => checksum,
    };
    put(course, course.l4_checksum, checksum.to_be_bytes());
    let [a, b, c, d] = address.to_be_bytes();
    put(course, course.address, [a, b]);
    put(course, course.address.wrapping_add(2), [c, d]);
    put(course, course.port, port.to_be_bytes());
}

/// Writes a field of the header.
#[inline(always)]
fn put(course: &mut Course, offset: u32, [first, second]: [u8; 2]) {
    for (offset, byte) in [(offset, first), (offset | 1, second)] {
        if let Some(place) = course.header.get_mut(offset as usize & (HEADER - 1)) {
            *place = byte;
        }
    }
}
