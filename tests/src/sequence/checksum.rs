//! Whether a frame's checksums are right, by summing everything up: none of `lb-common`'s code.

/// Whether all checksums are right that can be told from this frame alone; `None` where it is no
/// whole IP packet. A fragment's transport checksum needs the others, SCTP has none of this kind.
pub(crate) fn are_right(frame: &[u8]) -> Option<bool> {
    let mut offset = 12;
    let mut ether_type = word(frame, offset)?;
    while matches!(ether_type, 0x8100 | 0x88a8) {
        offset += 4;
        ether_type = word(frame, offset)?;
    }
    let packet = frame.get(offset + 2..)?;
    match ether_type {
        0x0800 => of_v4(packet),
        0x86dd => of_v6(packet),
        _ => None,
    }
}

fn of_v4(packet: &[u8]) -> Option<bool> {
    let header_length = usize::from(packet.first()? & 15) * 4;
    let total = usize::from(word(packet, 2)?);
    let (header, rest) = packet.get(..total)?.split_at_checked(header_length)?;
    if header_length < 20 || packet[0] >> 4 != 4 {
        return None;
    }
    if sum(header, 0) != 0xffff {
        return Some(false);
    }
    if word(packet, 6)? & 0x3fff != 0 {
        return Some(true);
    }
    Some(of_transport(packet[9], rest, &header[12..20]))
}

fn of_v6(packet: &[u8]) -> Option<bool> {
    let length = usize::from(word(packet, 4)?);
    let mut rest = packet.get(40..40 + length)?;
    let mut next = packet[6];
    loop {
        let skipped = match next {
            0 | 43 | 60 => usize::from(*rest.get(1)?) * 8 + 8,
            51 => usize::from(*rest.get(1)?) * 4 + 8,
            44 => return Some(true),
            _ => break,
        };
        next = *rest.first()?;
        rest = rest.get(skipped..)?;
    }
    Some(of_transport(next, rest, &packet[8..40]))
}

/// `addresses` are those of the pseudo-header.
fn of_transport(protocol: u8, segment: &[u8], addresses: &[u8]) -> bool {
    let is_v6 = addresses.len() == 32;
    let length = u64::try_from(segment.len()).unwrap_or(u64::MAX);
    let pseudo = u64::from(sum(addresses, 0)) + u64::from(protocol) + length;
    match protocol {
        6 | 58 => sum(segment, pseudo) == 0xffff,
        // None, which IPv4 allows.
        17 if !is_v6 && word(segment, 6) == Some(0) => true,
        17 => word(segment, 6) != Some(0) && sum(segment, pseudo) == 0xffff,
        1 => sum(segment, 0) == 0xffff,
        _ => true,
    }
}

/// The one's complement sum of `bytes` on top of `start`.
fn sum(bytes: &[u8], start: u64) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u64::from(u16::from_be_bytes([pair[0], low]))
    });
    let mut sum = start + words.sum::<u64>();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

fn word(bytes: &[u8], offset: usize) -> Option<u16> {
    let pair = bytes.get(offset..offset + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}
