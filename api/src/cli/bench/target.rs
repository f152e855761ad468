//! The server to be driven: this machine and no other.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use chrono::{TimeDelta, Utc};
use domain::app::key::{NewKey, Secret};
use domain::app::{Scopes, store};
use domain::id::local_app;
use reqwest::Url;
use sea_orm::DatabaseConnection;

use super::client::Connection;
use crate::access::UNAUTHENTICATED;

/// How long the server may take to say that it is there.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// A GraphQL endpoint on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// Where it listens.
    pub(super) addr: SocketAddr,
    /// Its path, such as `/graphql`.
    pub(super) path: String,
    /// An API key, once there is one.
    pub(super) api_key: Option<String>,
}

impl Target {
    /// Reads a URL.
    ///
    /// # Errors
    /// It is not `http`, or any address it names is not a loopback address.
    pub(super) async fn try_new(url: &str) -> anyhow::Result<Self> {
        let parsed: Url = url.parse().with_context(|| format!("{url:?} is not a URL"))?;
        ensure!(parsed.scheme() == "http", "{url:?} does not begin with http://");
        let host = parsed.host_str().with_context(|| format!("{url:?} names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = parsed.port_or_known_default().unwrap_or(80);
        let addrs: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
            .await
            .with_context(|| format!("cannot find the host of {url:?}"))?
            .collect();
        if !addrs.iter().all(|addr| addr.ip().is_loopback()) {
            bail!("{url:?} is not on this machine; a load is only put on loopback addresses");
        }
        let addr = *addrs.first().with_context(|| format!("the host of {url:?} has no address"))?;
        Ok(Self { addr, path: parsed.path().to_owned(), api_key: None })
    }

    /// The endpoint of a server that listens at `listen`; one that listens everywhere listens here too.
    ///
    /// # Errors
    /// `listen` is not an address of this machine.
    pub(super) async fn at(listen: &str) -> anyhow::Result<Self> {
        let listen = match listen.parse::<SocketAddr>() {
            Ok(addr) if addr.ip().is_unspecified() => format!("127.0.0.1:{}", addr.port()),
            _ => listen.to_owned(),
        };
        Self::try_new(&format!("http://{listen}/graphql")).await
    }

    /// Shows this key with each request, or one that is made in the server's database for a day.
    ///
    /// # Errors
    /// The database does not take the key.
    pub(super) async fn use_key(
        &mut self,
        given: Option<&str>,
        db: &DatabaseConnection,
    ) -> anyhow::Result<()> {
        if let Some(given) = given.filter(|given| !given.is_empty()) {
            self.api_key = Some(given.to_owned());
            return Ok(());
        }
        let secret = Secret::generate();
        let key = NewKey {
            app_id: local_app().uuid(),
            name: "oms bench".to_owned(),
            scopes: Scopes::all(),
            expires_at: Some(Utc::now() + TimeDelta::days(1)),
            granted_apps: Vec::new(),
        };
        store::create_key(db, &key, &secret)
            .await
            .context("cannot make an API key in the server's database")?;
        self.api_key = Some(secret.reveal().to_owned());
        Ok(())
    }

    /// Opens a connection and asks for something that needs no row.
    ///
    /// # Errors
    /// Nobody answers there, or something else than our GraphQL.
    pub(super) async fn probe(&self) -> anyhow::Result<()> {
        let asked = async {
            let mut connection = Connection::open(self).await?;
            // Without a key so far: that it is asked for is an answer as well.
            let answered = connection.post(br#"{"query":"{ __typename }"}"#).await;
            let is_ours = connection.answer_contains(br#""__typename":"Query""#)
                || connection.answer_contains(UNAUTHENTICATED.as_bytes());
            if is_ours { Ok(true) } else { answered.map(|()| false) }
        };
        let url = format!("http://{}{}", self.addr, self.path);
        match tokio::time::timeout(PROBE_TIMEOUT, asked).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => bail!("{url} is not the GraphQL of `oms serve`"),
            Ok(Err(error)) => Err(error
                .context(format!("no server at {url}; start one with `oms serve`, or name it with --url"))),
            Err(_) => bail!("{url} does not answer"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_this_machine_can_be_a_target() {
        for url in ["http://127.0.0.1:8080/graphql", "http://[::1]:8080/graphql", "http://127.9.9.9:1/"] {
            assert!(Target::try_new(url).await.is_ok(), "{url}");
        }
        for url in [
            "http://192.0.2.1:8080/graphql",
            "http://[2001:db8::1]/graphql",
            "http://0.0.0.0:8080/graphql",
            "https://127.0.0.1/graphql",
            "127.0.0.1:8080",
        ] {
            assert!(Target::try_new(url).await.is_err(), "{url}");
        }
    }

    #[tokio::test]
    async fn a_server_that_listens_everywhere_is_reached_here() {
        let target = Target::at("0.0.0.0:8081").await.expect("a target");
        assert_eq!(target.addr, SocketAddr::from(([127, 0, 0, 1], 8081)));
        assert_eq!(target.path, "/graphql");
    }
}
