//! What tests came to: cargo's result lines read back, and the sums handed to `.ci/run`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::workspace;

/// Tests that passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Tests that passed.
    pub(crate) passed: u64,
    /// Tests that failed, and builds or binaries that broke outside any test.
    pub(crate) failed: u64,
}

impl Counts {
    /// One step without tests of its own.
    pub(crate) const fn of_step(is_ok: bool) -> Self {
        if is_ok {
            Self {
                passed: 1,
                failed: 0,
            }
        } else {
            Self {
                passed: 0,
                failed: 1,
            }
        }
    }

    /// Adds what a line says if it is one of cargo's `test result:` lines.
    pub(crate) fn add_line(&mut self, line: &str) {
        let Some((_, result)) = line.split_once("test result: ") else {
            return;
        };
        for part in result.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what)) = (words.next(), words.next()) else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                _ => {}
            }
        }
    }

    /// Adds another sum.
    pub(crate) const fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// Where the last `cargo xtask test` left its sums, as `PASSED FAILED`.
    fn file() -> PathBuf {
        workspace::root().join("target/test-counts")
    }

    /// Leaves the sums where `.ci/run` reads them.
    pub(crate) fn save(self) -> Result<()> {
        let path = Self::file();
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("create the folder {}", folder.display()))?;
        }
        fs::write(&path, format!("{} {}\n", self.passed, self.failed))
            .with_context(|| format!("write the test counts to {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(output: &str, passed: u64, failed: u64) {
        let mut counts = Counts::default();
        output.lines().for_each(|line| counts.add_line(line));
        assert_eq!(counts, Counts { passed, failed });
    }

    #[test]
    fn results_of_several_binaries_add_up() {
        check(
            "running 2 tests\n\
             test a ... ok\n\
             test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             \n\
             test result: FAILED. 5 passed; 1 failed; 0 ignored; 0 measured; 3 filtered out; finished in 1.25s\n",
            7,
            1,
        );
    }

    #[test]
    fn ignored_and_filtered_tests_are_not_counted() {
        check(
            "test result: ok. 1 passed; 0 failed; 4 ignored; 2 measured; 9 filtered out",
            1,
            0,
        );
    }

    #[test]
    fn other_lines_are_not_results() {
        check("test says 3 passed ... ok\n3 passed; 2 failed\n", 0, 0);
    }
}
