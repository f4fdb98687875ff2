//! How our table types become bytes for aya: the one `Pod` implementation.

#![expect(unsafe_code, reason = "aya::Pod is an unsafe trait")]

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A key or value as aya hands it to the kernel.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
#[repr(transparent)]
pub struct Wire<T>(pub T);

// SAFETY: `Pod` asks that any bytes are a valid value and that a value has no uninitialised bytes.
// `FromBytes` promises the first, `IntoBytes` (no padding) the second, and `repr(transparent)`
// gives the wrapper the layout of what it holds.
unsafe impl<T: Copy + FromBytes + Immutable + IntoBytes + 'static> aya::Pod for Wire<T> {}
