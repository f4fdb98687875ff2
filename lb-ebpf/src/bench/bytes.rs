//! Bytes of a packet as they lie there. Where they lie is not aligned, of which a C program takes no
//! notice, and neither must these: so each is one instruction.

/// The first `N` bytes at `place`: 1, 2 or 4.
#[inline(always)]
pub(crate) fn load<const N: usize>(place: usize) -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        let value: u64;
        // SAFETY: the caller compared the range with the packet's end; the verifier proves it.
        unsafe {
            match N {
                1 => {
                    core::arch::asm!("{0} = *(u8 *)({1} + 0)", out(reg) value, in(reg) place, options(nostack, readonly))
                }
                2 => {
                    core::arch::asm!("{0} = *(u16 *)({1} + 0)", out(reg) value, in(reg) place, options(nostack, readonly))
                }
                _ => {
                    core::arch::asm!("{0} = *(u32 *)({1} + 0)", out(reg) value, in(reg) place, options(nostack, readonly))
                }
            }
        }
        value as u32
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let _ = place;
        N as u32
    }
}

/// The inverse of [`load`], of 2 or 4 bytes.
#[inline(always)]
pub(crate) fn store<const N: usize>(place: usize, value: u32) {
    #[cfg(target_arch = "bpf")]
    {
        let value = u64::from(value);
        // SAFETY: as above.
        unsafe {
            match N {
                2 => {
                    core::arch::asm!("*(u16 *)({0} + 0) = {1}", in(reg) place, in(reg) value, options(nostack))
                }
                _ => {
                    core::arch::asm!("*(u32 *)({0} + 0) = {1}", in(reg) place, in(reg) value, options(nostack))
                }
            }
        }
    }
    #[cfg(not(target_arch = "bpf"))]
    let _ = (place, value);
}
