//! What two frames differ in, field by field, for the message of a failed test.

use std::fmt::Write as _;

/// Names and values of a frame's fields, in order; what no name fits is `data`. The fields of the
/// packet that an ICMP error quotes begin with `quoted`.
pub fn fields(frame: &[u8]) -> Vec<(String, String)> {
    let mut reader = Reader {
        rest: frame,
        prefix: String::new(),
        fields: Vec::new(),
    };
    reader.hex("ethernet.destination", 6);
    reader.hex("ethernet.source", 6);
    let mut ether_type = reader.number("ethernet.type", 2);
    while matches!(ether_type, 0x8100 | 0x88a8) {
        reader.number("vlan.tag", 2);
        ether_type = reader.number("vlan.type", 2);
    }
    match ether_type {
        0x0800 => reader.ipv4(),
        0x86dd => reader.ipv6(),
        _ => {}
    }
    reader.hex("data", reader.rest.len());
    reader.fields
}

/// One line for each field that differs, or an empty text.
pub fn diff(expected: &[u8], actual: &[u8]) -> String {
    let mut text = String::new();
    let (expected_fields, actual_fields) = (fields(expected), fields(actual));
    let missing = (String::new(), "nothing".to_owned());
    for index in 0..expected_fields.len().max(actual_fields.len()) {
        let (name, wanted) = expected_fields.get(index).unwrap_or(&missing);
        let (other, found) = actual_fields.get(index).unwrap_or(&missing);
        if (name, wanted) != (other, found) {
            let other = if name == other { "" } else { other };
            writeln!(text, "{name}: expected {wanted}, found {other} {found}")
                .expect("a String takes everything");
        }
    }
    text
}

/// Fails with the fields that differ.
///
/// # Panics
///
/// If the frames differ.
#[track_caller]
pub fn assert_same(expected: &[u8], actual: &[u8]) {
    assert!(
        expected == actual,
        "frames differ:\n{}",
        diff(expected, actual)
    );
}

struct Reader<'a> {
    rest: &'a [u8],
    prefix: String,
    fields: Vec<(String, String)>,
}

impl Reader<'_> {
    /// Takes up to `length` bytes; nothing is recorded where there are none.
    fn hex(&mut self, name: &str, length: usize) -> Vec<u8> {
        let (bytes, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = rest;
        if !bytes.is_empty() {
            let value: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            self.fields
                .push((format!("{}{name}", self.prefix), value.join(" ")));
        }
        bytes.to_vec()
    }

    fn number(&mut self, name: &str, length: usize) -> u64 {
        let bytes = self.hex(name, length);
        let value = bytes
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        if let (false, Some((_, text))) = (bytes.is_empty(), self.fields.last_mut()) {
            *text = format!("{value} ({value:#x})");
        }
        value
    }

    fn ipv4(&mut self) {
        let header = self.number("ipv4.version_and_length", 1);
        self.number("ipv4.service", 1);
        self.number("ipv4.total_length", 2);
        self.number("ipv4.identification", 2);
        let fragment = self.number("ipv4.fragment", 2);
        self.number("ipv4.ttl", 1);
        let protocol = self.number("ipv4.protocol", 1);
        self.number("ipv4.checksum", 2);
        self.hex("ipv4.source", 4);
        self.hex("ipv4.destination", 4);
        let options = (header & 15).saturating_mul(4).saturating_sub(20);
        self.hex("ipv4.options", usize::try_from(options).unwrap_or(0));
        // The lower 13 bits are the fragment's position.
        if fragment.trailing_zeros() >= 13 {
            self.transport(protocol);
        }
    }

    fn ipv6(&mut self) {
        self.number("ipv6.version_and_flow", 4);
        self.number("ipv6.payload_length", 2);
        let mut next = self.number("ipv6.next_header", 1);
        self.number("ipv6.hop_limit", 1);
        self.hex("ipv6.source", 16);
        self.hex("ipv6.destination", 16);
        while matches!(next, 0 | 43 | 44 | 51 | 60 | 135) && !self.rest.is_empty() {
            let number = next;
            next = self.number("extension.next_header", 1);
            let units = self.number("extension.length", 1);
            let bytes = match number {
                44 => 8,
                51 => (units + 2) * 4,
                _ => (units + 1) * 8,
            };
            let body = self.hex("extension.body", usize::try_from(bytes - 2).unwrap_or(0));
            let is_later = number == 44 && body.len() > 1 && (body[0] != 0 || body[1] & !7 != 0);
            if is_later {
                return;
            }
        }
        self.transport(next);
    }

    fn transport(&mut self, protocol: u64) {
        match protocol {
            6 => {
                self.number("tcp.source", 2);
                self.number("tcp.destination", 2);
                self.number("tcp.sequence", 4);
                self.number("tcp.acknowledgement", 4);
                self.number("tcp.offset_and_flags", 2);
                self.number("tcp.window", 2);
                self.number("tcp.checksum", 2);
                self.number("tcp.urgent", 2);
            }
            17 => {
                self.number("udp.source", 2);
                self.number("udp.destination", 2);
                self.number("udp.length", 2);
                self.number("udp.checksum", 2);
            }
            132 => {
                self.number("sctp.source", 2);
                self.number("sctp.destination", 2);
                self.number("sctp.tag", 4);
                self.number("sctp.checksum", 4);
            }
            1 | 58 => {
                let number = self.number("icmp.type", 1);
                self.number("icmp.code", 1);
                self.number("icmp.checksum", 2);
                self.hex("icmp.rest", 4);
                let is_error = match protocol {
                    1 => matches!(number, 3 | 5 | 11 | 12),
                    _ => matches!(number, 1..=4),
                };
                // A quote in a quote has no meaning, and would let a frame recurse at will.
                if is_error && self.prefix.is_empty() {
                    "quoted.".clone_into(&mut self.prefix);
                    if protocol == 1 {
                        self.ipv4();
                    } else {
                        self.ipv6();
                    }
                    self.hex("data", self.rest.len());
                    self.prefix.clear();
                }
            }
            _ => {}
        }
    }
}
