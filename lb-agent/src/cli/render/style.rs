//! How text may look. Colour only ever repeats what a word or its absence already says.

use std::fmt;

/// What a printer is told.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Style {
    /// Whether escape sequences for colours may be written.
    pub color: bool,
    /// Whether the columns' names are left out.
    pub no_headers: bool,
    /// Whether the columns of `-o wide` are shown.
    pub wide: bool,
}

/// What a text stands for, from which its colour follows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Tone {
    /// Nothing special.
    #[default]
    Plain,
    /// Good.
    Good,
    /// Needs attention.
    Warning,
    /// Bad.
    Bad,
    /// Of little interest.
    Dim,
    /// A heading.
    Bold,
}

impl Tone {
    const fn escape(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => "\x1b[32m",
            Self::Warning => "\x1b[33m",
            Self::Bad => "\x1b[31m",
            Self::Dim => "\x1b[2m",
            Self::Bold => "\x1b[1m",
        }
    }
}

/// A text in its tone.
#[derive(Clone, Copy, Debug)]
pub struct Painted<'a> {
    text: &'a str,
    tone: Tone,
    color: bool,
}

impl Style {
    /// `text` in `tone`, where colours are allowed.
    #[must_use]
    pub const fn paint(self, text: &str, tone: Tone) -> Painted<'_> {
        Painted {
            text,
            tone,
            color: self.color,
        }
    }
}

impl fmt::Display for Painted<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.color && self.tone != Tone::Plain && !self.text.is_empty() {
            write!(formatter, "{}{}\x1b[0m", self.tone.escape(), self.text)
        } else {
            formatter.write_str(self.text)
        }
    }
}
