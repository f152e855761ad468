//! Pages of a list: bounds and cursors.

use async_graphql::{Error, ErrorExtensions, Result, SimpleObject};

/// The most items of one page.
pub(super) const MAX_PAGE: i32 = 100;

/// Where a page lies in its list.
#[derive(Debug, Clone, PartialEq, Eq, SimpleObject)]
#[graphql(shareable)]
pub(super) struct PageInfo {
    /// Whether there are items after this page. Example: `true`
    pub(super) has_next_page: bool,
    /// Whether there are items before this page. Example: `false`
    pub(super) has_previous_page: bool,
    /// Cursor of the first item of this page; null when the page is empty. Example: `534b552d31`
    pub(super) start_cursor: Option<String>,
    /// Cursor of the last item of this page, to be given as `after` for the next one. Example: `534b552d31`
    pub(super) end_cursor: Option<String>,
}

/// Checks the size of a page.
///
/// # Errors
/// A size that is not between 1 and [`MAX_PAGE`].
pub(super) fn check_first(first: i32) -> Result<u64> {
    check_size("first", first)
}

/// Checks the size of a page whose argument has this name.
///
/// # Errors
/// A size that is not between 1 and [`MAX_PAGE`].
pub(super) fn check_size(argument: &str, size: i32) -> Result<u64> {
    match u64::try_from(size) {
        Ok(checked) if (1..=MAX_PAGE).contains(&size) => Ok(checked),
        _ => Err(invalid_argument(format!("{argument} must be between 1 and {MAX_PAGE}; it is {size}"))),
    }
}

/// Makes a cursor from the key of an item. It is hexadecimal so that nobody takes it for the key.
pub(super) fn encode_cursor(key: &str) -> String {
    key.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the key in a cursor.
///
/// # Errors
/// The text is not a cursor that [`encode_cursor`] made.
pub(super) fn decode_cursor(cursor: &str) -> Result<String> {
    let digits = cursor.as_bytes();
    let pairs = digits.chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok());
    let bytes: Option<Vec<u8>> = pairs.collect();
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .filter(|key| encode_cursor(key) == cursor && !key.contains('\0'))
        .ok_or_else(|| invalid_argument("after is not a cursor; give an endCursor of an earlier page"))
}

/// Makes the error of a query whose argument is not as it must be.
pub(super) fn invalid_argument(message: impl Into<String>) -> Error {
    Error::new(message).extend_with(|_, extensions| extensions.set("code", "INVALID_INPUT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_1_to_100_items() {
        assert_eq!(check_first(1).ok(), Some(1));
        assert_eq!(check_first(100).ok(), Some(100));
        for first in [0, -1, 101, i32::MIN] {
            assert!(check_first(first).is_err());
        }
    }

    #[test]
    fn a_cursor_survives_the_round_trip() {
        for key in ["SKU-1", "ä", ""] {
            assert_eq!(decode_cursor(&encode_cursor(key)).ok().as_deref(), Some(key));
        }
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        for text in ["5", "zz", "+1", "ff", "00", "5A", "ä"] {
            assert!(decode_cursor(text).is_err(), "{text:?}");
        }
    }
}
