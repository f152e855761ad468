//! Which format an answer has, chosen by `Accept`.

use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, StatusCode};

use super::answer::Refused;

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// `application/json`: the status speaks of the HTTP exchange alone; older clients rely on it.
    Json,
    /// `application/graphql-response+json`: the status speaks of the request as well.
    GraphqlResponse,
    /// `text/event-stream`.
    EventStream,
}

/// Every format with its media type; the first is what a client gets that takes anything.
const FORMATS: [(Format, &str, &str); 3] = [
    (Format::Json, "application", "json"),
    (Format::GraphqlResponse, "application", "graphql-response+json"),
    (Format::EventStream, "text", "event-stream"),
];

/// One range of an `Accept` header.
struct Range<'a> {
    ty: &'a str,
    subtype: &'a str,
    quality: f32,
}

impl Format {
    /// Chooses what the client prefers. The range that names a media type most closely decides what the client thinks of it
    /// (RFC 9110, section 12.5.1); of those it likes alike, one that it names wins over one that it only takes, and then
    /// the one that it names first.
    ///
    /// # Errors
    /// 406 where it takes none of ours.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Refused> {
        let ranges: Vec<Range<'_>> = ranges(headers).collect();
        if ranges.is_empty() {
            return Ok(Self::Json);
        }
        let mut best: Option<((f32, u8), usize, Self)> = None;
        for (format, ty, subtype) in FORMATS {
            let closest = ranges
                .iter()
                .enumerate()
                .filter_map(|(place, range)| Some((range.closeness(ty, subtype)?, place, range.quality)))
                .max_by_key(|(closeness, place, _)| (*closeness, std::cmp::Reverse(*place)));
            let Some((closeness, place, quality)) = closest.filter(|(_, _, quality)| *quality > 0.0) else {
                continue;
            };
            let liking = (quality, closeness);
            if best.is_none_or(|(other, other_place, _)| {
                liking > other || (liking == other && place < other_place)
            }) {
                best = Some((liking, place, format));
            }
        }
        best.map(|(_, _, format)| format).ok_or_else(|| {
            let message =
                "accept one of application/graphql-response+json, application/json and text/event-stream";
            Refused::new(StatusCode::NOT_ACCEPTABLE, "NOT_ACCEPTABLE", message)
        })
    }
}

impl Range<'_> {
    /// How closely it names a media type, from `*/*` on; `None` if it names another.
    fn closeness(&self, ty: &str, subtype: &str) -> Option<u8> {
        let is = |ours: &str, theirs: &str| ours.eq_ignore_ascii_case(theirs);
        match (self.ty, self.subtype) {
            ("*", "*") => Some(0),
            (theirs, "*") if is(ty, theirs) => Some(1),
            (theirs, theirs_too) if is(ty, theirs) && is(subtype, theirs_too) => Some(2),
            _ => None,
        }
    }
}

/// Reads the ranges; what is none is left out.
fn ranges(headers: &HeaderMap) -> impl Iterator<Item = Range<'_>> {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges = values.flat_map(|value| value.split(',')).map(str::trim).filter(|range| !range.is_empty());
    ranges.filter_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let (ty, subtype) = parts.next()?.split_once('/')?;
        let quality = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.eq_ignore_ascii_case("q").then(|| value.parse::<f32>().ok())?
        });
        Some(Range { ty, subtype, quality: quality.unwrap_or(1.0) })
    })
}

/// Whether `Accept` names the media type; a wildcard does not count, since each answer has a default.
pub(super) fn names(headers: &HeaderMap, ty: &str, subtype: &str) -> bool {
    ranges(headers).any(|range| range.closeness(ty, subtype) == Some(2))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(accept: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))])
    }

    #[test]
    fn the_format_is_the_one_that_the_client_prefers() {
        let of = |accept| Format::of(&headers(accept)).ok();
        assert_eq!(Format::of(&HeaderMap::new()).ok(), Some(Format::Json));
        for (accept, format) in [
            ("", Format::Json),
            ("*/*", Format::Json),
            ("application/*", Format::Json),
            ("text/*", Format::EventStream),
            ("application/graphql-response+json, application/json", Format::GraphqlResponse),
            ("application/json, application/graphql-response+json", Format::Json),
            ("application/graphql-response+json, application/json;q=0.9", Format::GraphqlResponse),
            ("application/graphql-response+json; Q=0.5, application/json", Format::Json),
            ("application/json;q=0, */*", Format::GraphqlResponse),
            ("text/event-stream, */*", Format::EventStream),
            ("Application/GraphQL-Response+JSON; charset=utf-8", Format::GraphqlResponse),
        ] {
            assert_eq!(of(accept), Some(format), "{accept}");
        }
        for none in ["text/html", "application/json;q=0", "image/png, audio/*"] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn a_browser_names_the_page_that_it_wants() {
        let browser = headers("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8");
        assert!(names(&browser, "text", "html"));
        assert!(!names(&browser, "text", "event-stream"));
    }
}
