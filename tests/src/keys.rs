//! Keys for tests about who calls.

use domain::app::key::{NewKey, Secret};
use domain::app::{Scope, store};
use sea_orm::DatabaseConnection;
use uuid::Uuid;

/// An app with one key.
#[derive(Debug, Clone)]
pub struct AppWithKey {
    /// The app.
    pub app_id: Uuid,
    /// The key.
    pub key_id: Uuid,
    /// The key's secret.
    pub secret: String,
}

/// Makes an app without a limit on its points, and a key of it with these scopes.
pub async fn app_with_key(db: &DatabaseConnection, name: &str, scopes: &[Scope]) -> AppWithKey {
    let app = store::create_app(db, name, Some(0)).await.expect("an app");
    key_of(db, app.id, scopes, &[]).await
}

/// Makes a key of an app that sees the orders of these others as well.
pub async fn key_of(
    db: &DatabaseConnection,
    app_id: Uuid,
    scopes: &[Scope],
    granted_apps: &[Uuid],
) -> AppWithKey {
    let secret = Secret::generate();
    let key = NewKey {
        app_id,
        name: "test".to_owned(),
        scopes: scopes.iter().copied().collect(),
        expires_at: None,
        granted_apps: granted_apps.to_vec(),
    };
    let key = store::create_key(db, &key, &secret).await.expect("a key");
    AppWithKey { app_id, key_id: key.id, secret: secret.reveal().to_owned() }
}
