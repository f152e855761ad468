//! How a promise is carried out step by step.
//!
//! [`engine`] carries sagas of any definition; it knows neither orders nor gateways. [`place_order`] is the saga of an
//! order on its way from stock reservation to captured payment. [`payment_gateway`] is the port to whoever holds the
//! money, with its adapters.

pub mod engine;
pub mod payment_gateway;
pub mod place_order;
pub mod verify;
