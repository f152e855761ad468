//! What operators have to say about their acts, checked the same way for GraphQL and the command line.

use domain::input::{Violation, check_text};
use saga::engine::Failure;
use saga::engine::operate::{Finding, Operator};
use saga::place_order;

/// The longest name of an operator, in characters.
const MAX_NAME: usize = 100;

/// The longest reason, or evidence, in characters.
const MAX_REASON: usize = 500;

/// The longest id or code of a gateway, in characters.
const MAX_FINDING: usize = 200;

/// Checks who acts and why; `via` is what they came in with, and `reason_field` what the caller calls the reason.
///
/// # Errors
/// Every field that is not as it must be.
pub(crate) fn check(
    by: &str,
    via: &str,
    reason_field: &str,
    reason: &str,
) -> Result<Operator, Vec<Violation>> {
    let checks = [check_text(&["by"], by, MAX_NAME), check_text(&[reason_field], reason, MAX_REASON)];
    let violations: Vec<Violation> = checks.into_iter().filter_map(Result::err).collect();
    if violations.is_empty() {
        Ok(Operator { name: by.to_owned(), via: via.to_owned(), reason: reason.to_owned() })
    } else {
        Err(violations)
    }
}

/// Makes the finding that a call succeeded, with the id of what it did, or was refused, with a code.
///
/// # Errors
/// Neither or both are given, or one that says nothing.
pub(crate) fn finding(succeeded: Option<&str>, refused: Option<&str>) -> Result<Finding, Violation> {
    match (succeeded, refused) {
        (Some(answer_id), None) => {
            check_text(&["succeeded"], answer_id, MAX_FINDING)?;
            Ok(place_order::operate::succeeded(answer_id))
        }
        (None, Some(code)) => {
            check_text(&["refused"], code, MAX_FINDING)?;
            Ok(Finding::Refused(Failure::new(code, "the payment gateway refused, as an operator found out")))
        }
        _ => Err(Violation::new(&["succeeded"], "give exactly one of succeeded and refused")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_has_a_name_and_a_reason() {
        assert!(check("ada", "a test", "reason", "the gateway is back").is_ok());
        let violations = check(" ", "a test", "evidence", "").expect_err("both are empty");
        assert_eq!(
            violations.iter().map(|violation| violation.path.join(".")).collect::<Vec<_>>(),
            ["by", "evidence"]
        );
    }

    #[test]
    fn a_call_either_succeeded_or_was_refused() {
        assert!(matches!(finding(Some("capture_1"), None), Ok(Finding::Succeeded(_))));
        assert!(matches!(finding(None, Some("CARD_DECLINED")), Ok(Finding::Refused(_))));
        for (succeeded, refused) in
            [(None, None), (Some("a"), Some("b")), (Some(""), None), (None, Some(" "))]
        {
            assert!(finding(succeeded, refused).is_err(), "{succeeded:?} {refused:?}");
        }
    }
}
