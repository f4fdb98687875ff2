//! `metadata.uid`: by it tools find what is said about an object.

use std::fmt;

/// A uid, in 16 bytes instead of 36 letters, since every Service has one.
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Uid(u128);

/// Where the letters of the text are parted.
const PARTS: [usize; 4] = [8, 13, 18, 23];
const LENGTH: usize = 36;

impl Uid {
    /// The uid of this text. Objects written by hand have none, and other texts are not kept.
    pub fn parse(text: &str) -> Self {
        let is_dash = |place: usize| PARTS.contains(&place);
        let has_form = text.len() == LENGTH
            && text
                .bytes()
                .enumerate()
                .all(|(place, byte)| is_dash(place) == (byte == b'-'));
        let digits: String = text.chars().filter(|letter| *letter != '-').collect();
        let value = u128::from_str_radix(&digits, 16).ok();
        Self(value.filter(|_| has_form).unwrap_or(0))
    }
}

impl fmt::Display for Uid {
    /// Nothing at all for no uid.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(value) = self;
        if *value == 0 {
            return Ok(());
        }
        let mut digits = format!("{value:032x}");
        for place in PARTS {
            digits.insert(place, '-');
        }
        formatter.write_str(&digits)
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_printed_as_it_was_read_and_other_texts_are_none() {
        let text = "0a3f2c1e-7b64-4d2f-9c55-0e1d2c3b4a59";
        assert_eq!(Uid::parse(text).to_string(), text);
        for other in [
            "",
            "node-a",
            "+a3f2c1e-7b64-4d2f-9c55-0e1d2c3b4a5",
            "0a3f2c1e07b6404d2f09c5500e1d2c3b4a59",
        ] {
            assert_eq!(Uid::parse(other).to_string(), "", "{other}");
        }
    }
}
