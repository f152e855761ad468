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
/// There are more than `max_tokens`, brackets nest too deep, or a block string does not end: the parser takes the first two of
/// its quotes for an empty string and goes on, so that what looks like text here nests there.
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
            b'"' => match end_of_string(bytes, at) {
                Some(end) => end,
                None => return Err(TooMuch::new("a block string does not end")),
            },
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
            b'0'..=b'9' | b'-' => end_of_number(bytes, at),
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

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Returns where the number that begins at `from` has ended. Two may stand side by side, as in `1-1` or `00`.
fn end_of_number(bytes: &[u8], from: usize) -> usize {
    let digits = |at: usize| skip_while(bytes, at.min(bytes.len()), |byte| byte.is_ascii_digit());
    let whole = from + usize::from(bytes[from] == b'-');
    let mut at = if bytes.get(whole) == Some(&b'0') { whole + 1 } else { digits(whole) };
    if bytes.get(at) == Some(&b'.') && bytes.get(at + 1).is_some_and(u8::is_ascii_digit) {
        at = digits(at + 1);
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        at = digits(at + 1 + sign);
    }
    at
}

fn skip_while(bytes: &[u8], from: usize, goes_on: impl Fn(u8) -> bool) -> usize {
    bytes[from..].iter().position(|&byte| !goes_on(byte)).map_or(bytes.len(), |length| from + length)
}

/// Returns where the string that begins at `from` has ended: with its line or the query where its quote is missing, which the
/// parser refuses. `None` for a block string that does not end.
fn end_of_string(bytes: &[u8], from: usize) -> Option<usize> {
    const BLOCK: &[u8] = b"\"\"\"";
    let is_block = bytes[from..].starts_with(BLOCK);
    let mut at = from + if is_block { BLOCK.len() } else { 1 };
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' if is_block && bytes[at + 1..].starts_with(BLOCK) => at += 1 + BLOCK.len(),
            b'\\' if !is_block => at += 2,
            b'"' if is_block && bytes[at..].starts_with(BLOCK) => return Some(at + BLOCK.len()),
            b'"' if !is_block => return Some(at + 1),
            b'\n' | b'\r' if !is_block => return Some(at),
            _ => at += 1,
        }
    }
    (!is_block).then_some(bytes.len())
}

#[cfg(test)]
mod tests {
    use async_graphql::parser::parse_query;
    use async_graphql::parser::types::Selection;
    use async_graphql_value::Value;
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
        assert_eq!(count("[1-1-1 00 a-1 -1.5e-3]"), 10);
    }

    #[test]
    fn nothing_hides_in_a_block_string_that_does_not_end() {
        // The parser reads "" and "x" and then lists in lists, until its stack is full.
        let query = format!("{{ a(b: [\"\"\"x\"{}{}]) }}", "[".repeat(700), "]".repeat(700));
        assert!(count_tokens(&query, 1_000).is_err());
    }

    #[test]
    fn a_hundred_thousand_braces_are_refused() {
        for brace in ["{", "[", "(", "{a"] {
            assert!(count_tokens(&brace.repeat(100_000), usize::MAX).is_err(), "{brace}");
        }
        assert!(count_tokens(&"a ".repeat(100_000), 1_000).is_err());
    }

    /// Counts the scalars and brackets of a value as the parser has read it.
    fn size(value: &Value) -> usize {
        match value {
            Value::List(items) => items.iter().map(size).sum::<usize>() + 2,
            Value::Object(fields) => fields.values().map(size).sum::<usize>() + 2,
            _ => 1,
        }
    }

    proptest! {
        #[test]
        fn whatever_the_parser_reads_was_counted(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "[", "]", "1", "-1", "0", ".5", "e3", "\"", "\"\"\"", "\\", "x", " ", "{a:", "}", "$v", "#", "\n",
                ]),
                0..14,
            )
        ) {
            let query = format!("{{ a(b: [{}]) }}", parts.concat());
            let read: usize = parse_query(&query).map_or(0, |document| {
                let operations = document.operations.iter();
                let fields = operations.flat_map(|(_, operation)| &operation.node.selection_set.node.items);
                let arguments = fields.filter_map(|selection| match &selection.node {
                    Selection::Field(field) => Some(&field.node.arguments),
                    _ => None,
                });
                arguments.flatten().map(|(_, value)| size(&value.node)).sum()
            });
            if let Ok(tokens) = count_tokens(&query, 10_000) {
                prop_assert!(tokens >= read, "{tokens} < {read}: {query}");
            }
        }

        #[test]
        fn no_text_makes_counting_panic(query in "[ -~\\n\\u{feff}ä]{0,300}") {
            let _ = count_tokens(&query, 100);
        }
    }
}
