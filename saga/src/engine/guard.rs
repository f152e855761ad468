//! Switches that take a guard away, for the tests that show that the suite would notice.
//!
//! They exist only with the `failpoints` feature; without it each is constantly on and the compiler removes the check.

/// A guard of the engine that a negative control may take away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// A result ends a call only if it names the call's epoch.
    EpochMatch,
    /// A call is made only after the commit that holds its intent.
    IntentBeforeSend,
    /// The idempotency key is derived from saga, step, direction and generation.
    DerivedKey,
}

impl Guard {
    /// Returns whether the guard has been taken away.
    #[cfg(feature = "failpoints")]
    pub fn is_off(self) -> bool {
        let name = match self {
            Self::EpochMatch => "guard_epoch_match",
            Self::IntentBeforeSend => "guard_intent_before_send",
            Self::DerivedKey => "guard_derived_key",
        };
        fail::eval(name, |_| ()).is_some()
    }

    /// Returns whether the guard has been taken away: never.
    #[cfg(not(feature = "failpoints"))]
    pub const fn is_off(self) -> bool {
        false
    }
}
