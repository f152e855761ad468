//! Counts the tokens of a query, and how deep its brackets nest, without parsing it.
//!
//! The library's parser calls itself for each bracket, so that a hundred thousand of them would overflow the stack. This
//! one reads each byte once and keeps two numbers.

use super::TooMuch;

/// The deepest that brackets of any kind may nest. GraphiQL's introspection needs 14; the parser's stack takes far more.
const MAX_NESTING: usize = 64;

/// Counts the tokens (GraphQL specification, section 2.1). What is not GraphQL is counted somehow: the parser refuses it.
///
/// # Errors
/// There are more than `max_tokens`, or brackets nest too deep.
pub(super) fn count_tokens(query: &str, max_tokens: usize) -> Result<usize, TooMuch> {
    let bytes = query.as_bytes();
    let (mut at, mut tokens, mut nesting) = (0, 0_usize, 0_usize);
    while let Some(&byte) = bytes.get(at) {
        let end = match byte {
            b' ' | b'\t' | b'\r' | b'\n' | b',' | 0xEF | 0xBB | 0xBF => {
                at += 1;
                continue;
            }
            b'#' => {
                at = skip_while(bytes, at, |byte| byte != b'\n' && byte != b'\r');
                continue;
            }
            b'"' => end_of_string(bytes, at),
            b'{' | b'[' | b'(' => {
                nesting += 1;
                if nesting > MAX_NESTING {
                    return Err(TooMuch::new(format!("brackets nest deeper than {MAX_NESTING}")));
                }
                at + 1
            }
            b'}' | b']' | b')' => {
                nesting = nesting.saturating_sub(1);
                at + 1
            }
            b'.' => skip_while(bytes, at, |byte| byte == b'.'),
            b'0'..=b'9' | b'-' => skip_while(bytes, at, |byte| is_word(byte) || byte == b'.'),
            _ if is_word(byte) => skip_while(bytes, at, is_word),
            _ => at + 1,
        };
        tokens += 1;
        if tokens > max_tokens {
            return Err(TooMuch::new(format!("the query has more than {max_tokens} tokens")));
        }
        at = end;
    }
    Ok(tokens)
}

/// Names and numbers, but for their fractions.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'+')
}

fn skip_while(bytes: &[u8], from: usize, goes_on: impl Fn(u8) -> bool) -> usize {
    bytes[from..].iter().position(|&byte| !goes_on(byte)).map_or(bytes.len(), |length| from + length)
}

/// Returns where the string that begins at `from` has ended; the end of the query for one that does not end.
fn end_of_string(bytes: &[u8], from: usize) -> usize {
    const BLOCK: &[u8] = b"\"\"\"";
    let is_block = bytes[from..].starts_with(BLOCK);
    let mut at = from + if is_block { BLOCK.len() } else { 1 };
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' if is_block && bytes[at + 1..].starts_with(BLOCK) => at += 1 + BLOCK.len(),
            b'\\' if !is_block => at += 2,
            b'"' if is_block && bytes[at..].starts_with(BLOCK) => return at + BLOCK.len(),
            b'"' if !is_block => return at + 1,
            b'\n' | b'\r' if !is_block => return at,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn count(query: &str) -> usize {
        count_tokens(query, 1_000).expect("few tokens")
    }

    #[test]
    fn tokens_are_counted_as_the_specification_has_them() {
        assert_eq!(count(""), 0);
        assert_eq!(count("{ a }"), 3);
        assert_eq!(
            count("\u{feff}query Q($id: ID!) { a(id: $id, n: -1.5e+3) { ...F @skip(if: true) } } # { { {"),
            32
        );
        assert_eq!(count(r#"{ a(s: "{ \" { #", t: """ { " \""" { """) }"#), 11);
        assert_eq!(count("{ a(s: \"never ends"), 6);
    }

    #[test]
    fn a_hundred_thousand_braces_are_refused() {
        for brace in ["{", "[", "(", "{a"] {
            assert!(count_tokens(&brace.repeat(100_000), usize::MAX).is_err(), "{brace}");
        }
        assert!(count_tokens(&"a ".repeat(100_000), 1_000).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_counting_panic(query in "[ -~\\n\\u{feff}ä]{0,300}") {
            let _ = count_tokens(&query, 100);
        }
    }
}
