//! The server's certificate: a CA of its own, made anew for each server, and what clients need to
//! trust it. No client certificates; users come with bearer tokens.

use std::sync::Arc;

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A server's identity.
pub struct Identity {
    /// The CA in PEM, for clients.
    pub ca_pem: String,
    /// What the listener speaks.
    pub config: Arc<rustls::ServerConfig>,
}

/// Make a CA and, signed by it, a certificate for the loopback names.
pub fn identity() -> anyhow::Result<Identity> {
    let mut ca_params = CertificateParams::new(Vec::<String>::new()).context("the CA's parameters")?;
    ca_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca_params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca_params
        .distinguished_name
        .push(DnType::CommonName, "drydock embedded API");
    let ca_key = KeyPair::generate().context("the CA's key")?;
    let ca = CertifiedIssuer::self_signed(ca_params, ca_key).context("the CA's certificate")?;

    let names = [
        "localhost",
        "127.0.0.1",
        "::1",
        "kubernetes",
        "kubernetes.default.svc",
    ]
    .map(str::to_owned);
    let params = CertificateParams::new(names.to_vec()).context("the server's names")?;
    let key = KeyPair::generate().context("the server's key")?;
    let certificate = params.signed_by(&key, &ca).context("the server's certificate")?;

    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS versions")?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .context("the server's certificate and key")?;
    // One request at a time per connection, so that a reset hits that request and no other.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Identity {
        ca_pem: ca.pem(),
        config: Arc::new(config),
    })
}
