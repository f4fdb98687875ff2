//! A Rust file as the rules see it: its text, and its code without comments and literals.

/// A file under judgement.
pub(super) struct Source<'a> {
    /// Path from the repository's root, with forward slashes.
    pub(super) path: &'a str,
    /// The whole text.
    pub(super) text: &'a str,
    code: String,
}

impl<'a> Source<'a> {
    /// Reads the text once.
    pub(super) fn new(path: &'a str, text: &'a str) -> Self {
        Self {
            path,
            text,
            code: code_only(text),
        }
    }

    /// Lines of code, numbered from 1, with comments and literals blanked.
    pub(super) fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line))
    }

    /// Lines of code that hold this word.
    pub(super) fn lines_with_word(&self, word: &str) -> impl Iterator<Item = (usize, &str)> {
        self.code_lines()
            .filter(move |(_, line)| has_token(line, word))
    }
}

const fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Whether a line holds a pattern that is not part of a longer word.
pub(super) fn has_token(line: &str, pattern: &str) -> bool {
    line.match_indices(pattern).any(|(at, _)| {
        let (before, rest) = line.split_at(at);
        let after = &rest[pattern.len()..];
        let is_start = !pattern.starts_with(is_word) || !before.ends_with(is_word);
        let is_end = !pattern.ends_with(is_word) || !after.starts_with(is_word);
        is_start && is_end
    })
}

/// Replaces comments, strings and characters by spaces and keeps every line break.
fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = literal(rest, code.ends_with(is_word)) {
            length
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        let (blanked, after) = rest.split_at(length);
        code.extend(blanked.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = after;
    }
    code
}

/// Length of the comment at the start, nested ones included.
fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// Length of the string or character at the start, if there is one.
fn literal(text: &str, follows_word: bool) -> Option<usize> {
    if text.starts_with('"') {
        return Some(escaped(text, '"'));
    }
    if text.starts_with('\'') {
        // A lifetime has no closing quote right after its first character.
        let is_char = text.starts_with("'\\") || text.chars().nth(2) == Some('\'');
        return is_char.then(|| escaped(text, '\''));
    }
    if follows_word {
        return None;
    }
    let prefix = ["br", "cr", "r"]
        .into_iter()
        .find(|prefix| text.starts_with(prefix))?;
    let hashes = text[prefix.len()..]
        .bytes()
        .take_while(|&byte| byte == b'#')
        .count();
    let body = prefix.len() + hashes;
    let closing = format!("\"{}", "#".repeat(hashes));
    let inside = text[body..].strip_prefix('"')?;
    let end = inside
        .find(&closing)
        .map_or(text.len(), |at| body + 1 + at + closing.len());
    Some(end)
}

/// Length of a literal up to its unescaped closing quote.
fn escaped(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if is_escaped {
            is_escaped = false;
        } else if c == '\\' {
            is_escaped = true;
        } else if c == quote {
            return at + c.len_utf8();
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let squeezed = code_only(text)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        assert_eq!(squeezed, expected, "{text}");
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        check("a // unsafe\nb", "a b");
        check("a /* x /* y */ z */ b", "a b");
        check(r#"say("un\"safe", 'x', '\'')"#, "say( , , )");
        check("raw(r#\"un\"safe\"#) + br\"x\"", "raw( ) +");
    }

    #[test]
    fn lifetimes_and_names_stay() {
        check(
            "fn f<'a>(x: &'a str) -> for<'b> r",
            "fn f<'a>(x: &'a str) -> for<'b> r",
        );
        check("bar\"x\"", "bar");
    }

    #[test]
    fn lines_keep_their_numbers() {
        let source = Source::new("a.rs", "/*\n\n*/\n\"\n\" unsafe");
        assert_eq!(
            source
                .lines_with_word("unsafe")
                .map(|(line, _)| line)
                .collect::<Vec<_>>(),
            [5]
        );
    }

    #[test]
    fn a_token_is_a_whole_word() {
        assert!(has_token("unsafe {", "unsafe"));
        assert!(!has_token("forbid(unsafe_code)", "unsafe"));
        assert!(!has_token("is_allow(", concat!("all", "ow(")));
    }
}
