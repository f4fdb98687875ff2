//! Memory for one value that the caller provides, because the kernel's stack has no room for it.

/// A place for a `T`. All bytes zero is a valid one, an empty one: so it may lie in a kernel map.
///
/// A whole word says whether it is full, so that the value lies aligned: behind one byte, it would be
/// copied byte by byte.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(u64)]
pub enum Room<T> {
    /// Nothing was put here yet.
    #[default]
    Empty = 0,
    /// What was put here last.
    Full(T) = 1,
}

impl<T> Room<T> {
    /// Replaces what is here.
    #[inline(always)]
    pub fn put(&mut self, value: T) -> &mut T {
        *self = Self::Full(value);
        loop {
            // Always at the first turn; a second one is not even compiled.
            if let Self::Full(value) = self {
                return value;
            }
        }
    }

    /// Leaves nothing here.
    #[inline(always)]
    pub fn clear(&mut self) {
        *self = Self::Empty;
    }

    /// What is here.
    #[inline(always)]
    pub const fn get(&self) -> Option<&T> {
        match self {
            Self::Full(value) => Some(value),
            Self::Empty => None,
        }
    }

    /// What is here, to be changed.
    #[inline(always)]
    pub const fn get_mut(&mut self) -> Option<&mut T> {
        match self {
            Self::Full(value) => Some(value),
            Self::Empty => None,
        }
    }
}
