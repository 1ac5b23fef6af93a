//! Rust text without what is not code: comments and literals become blanks, so that a word found is a word used.
//!
//! A scanner, not a parser: it knows nested comments, raw strings, byte strings, and characters against lifetimes.

/// The same text, as long and with the same lines, in which comments and the insides of literals are blanks.
pub fn scrub(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < chars.len() {
        let end = skipped(&chars, i);
        if end > i {
            out.extend(chars[i..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            i = end;
        } else if chars[i].is_alphanumeric() || chars[i] == '_' {
            // A whole word at once, so that the r of `for` never begins a raw string.
            let end = word_end(&chars, i);
            out.extend(&chars[i..end]);
            i = end;
        } else {
            out.push(chars[i]);
            i += 1;
        }
    }
    out
}

fn word_end(chars: &[char], from: usize) -> usize {
    from + chars[from..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').count()
}

/// Where the comment or literal ends that begins at `i`; `i` itself when none does.
fn skipped(chars: &[char], i: usize) -> usize {
    let at = |k: usize| chars.get(k).copied().unwrap_or('\0');
    match (at(i), at(i + 1)) {
        ('/', '/') => i + chars[i..].iter().take_while(|c| **c != '\n').count(),
        ('/', '*') => block_comment(chars, i),
        ('"', _) => quoted(chars, i + 1, '"'),
        ('b' | 'c', '"') => quoted(chars, i + 2, '"'),
        ('b', '\'') => quoted(chars, i + 2, '\''),
        ('r', '"' | '#') => raw(chars, i, i + 1),
        ('b' | 'c', 'r') if matches!(at(i + 2), '"' | '#') => raw(chars, i, i + 2),
        // 'x' and '\n' are characters, 'a is a lifetime.
        ('\'', '\\') => quoted(chars, i + 1, '\''),
        ('\'', _) if at(i + 2) == '\'' => i + 3,
        _ => i,
    }
}

fn block_comment(chars: &[char], from: usize) -> usize {
    let (mut i, mut depth) = (from, 0);
    while i < chars.len() {
        match (chars[i], chars.get(i + 1)) {
            ('/', Some('*')) => (i, depth) = (i + 2, depth + 1),
            ('*', Some('/')) => (i, depth) = (i + 2, depth - 1),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

fn quoted(chars: &[char], from: usize, quote: char) -> usize {
    let mut i = from;
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            c if c == quote => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

/// `begin` is where the literal begins, `hashes` where its hashes do. `r#name` is a word and not a literal.
fn raw(chars: &[char], begin: usize, hashes: usize) -> usize {
    let count = chars[hashes..].iter().take_while(|c| **c == '#').count();
    if chars.get(hashes + count) != Some(&'"') {
        return begin;
    }
    let mut i = hashes + count + 1;
    while i < chars.len() {
        if chars[i] == '"' && chars[i + 1..].iter().take(count).filter(|c| **c == '#').count() == count {
            return i + 1 + count;
        }
        i += 1;
    }
    chars.len()
}

/// The words of scrubbed code with the byte each begins at.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut rest = 0;
    std::iter::from_fn(move || {
        let begin = rest + code[rest..].find(|c: char| c.is_alphanumeric() || c == '_')?;
        let len = code[begin..].find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(code.len() - begin);
        rest = begin + len;
        Some((begin, &code[begin..rest]))
    })
}

/// The line, counted from 1, that the byte stands in.
pub fn line_of(code: &str, byte: usize) -> usize {
    code[..byte].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(text: &str) -> Vec<String> {
        words(&scrub(text)).map(|(_, word)| word.to_string()).collect()
    }

    #[test]
    fn comments_and_literals_are_no_code() {
        assert_eq!(used("a // unsafe\nb /* x /* y */ z */ c \"unsafe \\\" d\" e"), ["a", "b", "c", "e"]);
        assert_eq!(used("r\"x\" r#\"a\"b\"# br##\"c\"#d\"## for 'x' '\\'' b'y' b\"z\" c\"w\" end"), ["for", "end"]);
        assert_eq!(used("let r#unsafe = 1;"), ["let", "r", "unsafe", "1"]);
    }

    #[test]
    fn a_lifetime_is_not_a_character() {
        assert_eq!(used("fn f<'a>(x: &'a str) -> &'a str { x }").last().unwrap(), "x");
    }

    #[test]
    fn lines_stay_where_they_are() {
        let text = "a\n/* b\n c */ d \"e\nf\" g\n";
        let code = scrub(text);
        assert_eq!(code.lines().count(), text.lines().count());
        let (at, _) = words(&code).find(|(_, w)| *w == "g").unwrap();
        assert_eq!(line_of(&code, at), 4);
    }
}
