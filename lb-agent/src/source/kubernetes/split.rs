//! A body that arrives in pieces, split into objects: at most one object is held at a time.
//!
//! A watch is one JSON object a line. A list is one JSON object whose `items` are the objects: its
//! items are cut out as they arrive, and what is left around them, the *envelope*, is small.

/// The largest object: etcd stores 1.5 MiB by default, which is less than it is as JSON.
const MAX_BYTES: usize = 32 << 20;

/// Why a body cannot be split.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum SplitError {
    /// The connection should be given up.
    #[error("an object is larger than {} MiB", MAX_BYTES >> 20)]
    TooLarge,
    /// The rest of the object did not arrive; ask again.
    #[error("the answer ended within an object")]
    Cut,
}

/// Splits lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    part: Vec<u8>,
}

impl Lines {
    /// Hands each line that is complete to `found`.
    pub(super) fn push(
        &mut self,
        mut chunk: &[u8],
        found: &mut impl FnMut(&[u8]),
    ) -> Result<(), SplitError> {
        while let Some(end) = chunk.iter().position(|&byte| byte == b'\n') {
            let (line, rest) = chunk.split_at(end);
            chunk = rest.get(1..).unwrap_or_default();
            if self.part.is_empty() {
                found(line);
            } else {
                self.part.extend_from_slice(line);
                found(&self.part);
                self.part = Vec::new();
            }
        }
        append(&mut self.part, chunk)
    }

    /// Whether nothing of a next line has arrived.
    pub(super) const fn is_at_rest(&self) -> bool {
        self.part.is_empty()
    }
}

/// Splits the items of a list.
#[expect(
    clippy::struct_excessive_bools,
    reason = "the state of a scanner: each says where in the text it is"
)]
#[derive(Debug, Default)]
pub(super) struct Items {
    /// Open objects and arrays.
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    in_list: bool,
    /// Whether the last key or string of the outermost object is `items`.
    is_items_key: bool,
    /// Where in the envelope the string that is being read began.
    string_start: usize,
    item: Vec<u8>,
    envelope: Vec<u8>,
}

impl Items {
    /// Hands each item that is complete to `found`.
    pub(super) fn push(
        &mut self,
        chunk: &[u8],
        found: &mut impl FnMut(&[u8]),
    ) -> Result<(), SplitError> {
        // Where the part of an item begins that is not copied yet.
        let mut start = 0;
        for (index, &byte) in chunk.iter().enumerate() {
            let is_inside = self.in_list && self.depth > 2;
            if self.in_string {
                self.string_byte(byte);
                if !is_inside {
                    self.envelope.push(byte);
                }
                continue;
            }
            match byte {
                b'"' => {
                    self.in_string = true;
                    self.string_start = self.envelope.len();
                }
                b'{' | b'[' => {
                    if self.in_list && self.depth == 2 {
                        start = index;
                    }
                    self.depth += 1;
                    if byte == b'[' && self.depth == 2 && self.is_items_key {
                        self.in_list = true;
                        self.envelope.push(byte);
                        continue;
                    }
                }
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.in_list && self.depth == 2 {
                        append(&mut self.item, chunk.get(start..=index).unwrap_or_default())?;
                        found(&self.item);
                        self.item = Vec::new();
                        start = index + 1;
                        continue;
                    }
                    self.in_list &= self.depth >= 2;
                }
                _ => {}
            }
            // What stands between the items is commas and blanks.
            if !self.in_list {
                self.envelope.push(byte);
            }
        }
        if self.envelope.len() > MAX_BYTES {
            return Err(SplitError::TooLarge);
        }
        if self.in_list && self.depth > 2 {
            append(&mut self.item, chunk.get(start..).unwrap_or_default())?;
        }
        Ok(())
    }

    /// What is around the items, once the body has ended.
    pub(super) fn finish(self) -> Result<Vec<u8>, SplitError> {
        if self.depth > 0 || self.envelope.is_empty() {
            return Err(SplitError::Cut);
        }
        Ok(self.envelope)
    }

    fn string_byte(&mut self, byte: u8) {
        match byte {
            _ if self.is_escaped => self.is_escaped = false,
            b'\\' => self.is_escaped = true,
            b'"' => {
                self.in_string = false;
                if self.depth == 1 {
                    let text = self.envelope.get(self.string_start + 1..);
                    self.is_items_key = text == Some(b"items");
                }
            }
            _ => {}
        }
    }
}

fn append(part: &mut Vec<u8>, bytes: &[u8]) -> Result<(), SplitError> {
    if part.len() + bytes.len() > MAX_BYTES {
        return Err(SplitError::TooLarge);
    }
    part.extend_from_slice(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#" {"kind":"items","metadata":{"resourceVersion":"7","items":[{"no":1}]},
        "items": [ {"a":"}]\"{","b":[{},[1]]} , {} ],"more":["items",[2]]}"#;

    fn items(chunks: &[&[u8]]) -> (Vec<String>, Result<String, SplitError>) {
        let mut splitter = Items::default();
        let mut found = Vec::new();
        for chunk in chunks {
            splitter
                .push(chunk, &mut |item| {
                    found.push(String::from_utf8(item.to_vec()).unwrap());
                })
                .unwrap();
        }
        let envelope = splitter.finish();
        (found, envelope.map(|it| String::from_utf8(it).unwrap()))
    }

    #[test]
    fn items_are_found_wherever_the_pieces_are_cut() {
        let bytes = LIST.as_bytes();
        for first in 0..bytes.len() {
            for second in first..bytes.len() {
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                let (found, envelope) = items(&pieces);
                assert_eq!(found, [r#"{"a":"}]\"{","b":[{},[1]]}"#, "{}"]);
                let envelope: serde_json::Value = serde_json::from_str(&envelope.unwrap()).unwrap();
                assert_eq!(envelope["items"], serde_json::json!([]));
                assert_eq!(envelope["metadata"]["resourceVersion"], "7");
                assert_eq!(envelope["more"], serde_json::json!(["items", [2]]));
            }
        }
    }

    #[test]
    fn a_list_that_is_cut_anywhere_is_no_list() {
        let text = LIST.trim();
        for end in 0..text.len() {
            let (_, envelope) = items(&[&text.as_bytes()[..end]]);
            assert_eq!(envelope, Err(SplitError::Cut), "{end}");
        }
    }

    #[test]
    fn a_list_without_items_is_its_envelope() {
        for text in [r#"{"items":null}"#, r#"{"items":[]}"#, r#"{"metadata":{}}"#] {
            assert_eq!(items(&[text.as_bytes()]), (vec![], Ok(text.to_owned())));
        }
    }

    #[test]
    fn lines_are_found_wherever_the_pieces_are_cut() {
        let bytes = b"one\n\ntwo\nrest";
        for cut in 0..bytes.len() {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for chunk in [&bytes[..cut], &bytes[cut..]] {
                lines
                    .push(chunk, &mut |line| found.push(line.to_vec()))
                    .unwrap();
            }
            assert_eq!(found, [&b"one"[..], b"", b"two"]);
            assert!(!lines.is_at_rest());
        }
    }

    #[test]
    fn an_object_without_an_end_is_refused() {
        let chunk = vec![b'x'; MAX_BYTES / 2];
        let mut lines = Lines::default();
        let mut none = |_: &[u8]| panic!("no line");
        assert_eq!(lines.push(&chunk, &mut none), Ok(()));
        assert_eq!(lines.push(&chunk, &mut none), Ok(()));
        assert_eq!(lines.push(b"x", &mut none), Err(SplitError::TooLarge));
    }
}
