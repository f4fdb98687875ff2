//! The demo's output: lines of plain text, coloured on a terminal, never rewritten.

use std::io::{self, IsTerminal as _, Write as _};

/// Characters of a full bar.
const BAR: f64 = 40.0;

const BOLD: &str = "1";
const GREEN: &str = "32";
const RED: &str = "31";
const CYAN: &str = "36";

/// Where the demo speaks.
#[derive(Debug)]
pub struct Screen {
    has_colour: bool,
    steps: u32,
}

impl Screen {
    /// Standard output; colours if it is a terminal and `NO_COLOR` is not set.
    pub fn new() -> Self {
        let has_colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self {
            has_colour,
            steps: 0,
        }
    }

    /// A headline.
    pub fn title(&mut self, text: &str) {
        let text = self.paint(BOLD, text);
        self.line(&format!("\n{text}\n"));
    }

    /// The headline of the next part, numbered.
    pub fn step(&mut self, text: &str) {
        self.steps += 1;
        let heading = self.paint(BOLD, &format!("{}. {text}", self.steps));
        self.line(&format!("\n{heading}"));
    }

    /// Something that was just found to be true.
    pub fn claim(&mut self, text: &str) {
        let mark = self.paint(GREEN, "✓");
        self.line(&format!("  {mark} {text}"));
    }

    /// One server's share of `count` connections, and what it should be.
    pub fn bar(&mut self, name: &str, count: u64, share: f64, expected: f64, bound: f64) {
        let bar = self.paint(CYAN, &blocks(share));
        self.line(&format!(
            "    {name:8} {bar} {count:6}  {:4.1} %   (expected {expected:.0} ± {bound:.0})",
            share * 100.0,
        ));
    }

    /// Why the demo ended early; on standard error as well as in the exit code.
    pub fn failure(&mut self, text: &str) {
        let mark = self.paint(RED, "✗ the demo failed");
        // Nobody is left to tell if standard error is gone too.
        writeln!(io::stderr(), "\n{mark}\n{text}").ok();
    }

    /// A line as it is.
    pub fn line(&mut self, text: &str) {
        // A reader that went away (`| head`) must not keep the demo from cleaning up.
        writeln!(io::stdout(), "{text}").ok();
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.has_colour {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

/// A bar of fixed width, filled to `share`.
fn blocks(share: f64) -> String {
    let mut text = String::new();
    let mut position = 0.5;
    while position < BAR {
        text.push(if position < share * BAR { '█' } else { '·' });
        position += 1.0;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_filled_to_its_share_and_always_as_wide() {
        for (share, filled) in [(0.0, 0), (0.25, 10), (1.0, 40)] {
            let bar = blocks(share);
            assert_eq!(
                bar.chars().filter(|block| *block == '█').count(),
                filled,
                "{share}"
            );
            assert_eq!(bar.chars().count(), 40, "{share}");
        }
    }
}
