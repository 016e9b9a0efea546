//! The certificates of one control plane: a CA made anew for each, the API server's certificate, and one
//! for each user, whose common name is the user and whose organizations are the groups (that is how
//! Kubernetes reads them). Keys never leave the control plane's folder and its kubeconfigs.

use anyhow::Context as _;
use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SigningKey as _,
};

/// What rcgen writes as subject until [`with_subject`] has put in the real one.
const PLACEHOLDER: &str = "subject";
/// Tags of DER (X.690): what a certificate's frame and a name are made of.
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const BIT_STRING: u8 = 0x03;
/// 2.5.4.3 and 2.5.4.10 (X.520), encoded.
const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];
const ORGANIZATION: [u8; 3] = [0x55, 0x04, 0x0a];

/// A certificate and its private key (PKCS #8), in PEM.
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
}

/// A CA.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// Make one.
    ///
    /// # Errors
    /// When the machine gives no randomness.
    pub fn new() -> anyhow::Result<Authority> {
        let mut params = CertificateParams::new(Vec::<String>::new()).context("the CA's parameters")?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        params.distinguished_name = common_name("drydock control plane");
        let key = KeyPair::generate().context("the CA's key")?;
        let issuer = CertifiedIssuer::self_signed(params, key).context("the CA's certificate")?;
        Ok(Authority { issuer })
    }

    /// The CA's certificate, in PEM.
    #[must_use]
    pub fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// The CA's key, in PEM: the controllers sign with it what the certificates API is asked for.
    #[must_use]
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A certificate for a server of these names and addresses.
    ///
    /// # Errors
    /// When one of them is no name.
    pub fn server(&self, names: Vec<String>) -> anyhow::Result<Pair> {
        let mut params = CertificateParams::new(names).context("the server's names")?;
        params.distinguished_name = common_name("kube-apiserver");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().context("the server's key")?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .context("the server's certificate")?;
        Ok(Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// A certificate for a client that is this user, in these groups.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn client(&self, user: &str, groups: &[String]) -> anyhow::Result<Pair> {
        let mut params = CertificateParams::new(Vec::<String>::new()).context("a client's parameters")?;
        params.distinguished_name = common_name(PLACEHOLDER);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().context("a client's key")?;
        let made = params
            .signed_by(&key, &self.issuer)
            .context("a client's certificate")?;
        let der = with_subject(made.der(), &name(user, groups), self.issuer.key())
            .with_context(|| format!("a certificate for {user}"))?;
        Ok(Pair {
            certificate: pem(der)?,
            key: key.serialize_pem(),
        })
    }
}

fn common_name(text: &str) -> rcgen::DistinguishedName {
    let mut name = rcgen::DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

/// The same certificate with another subject, signed again. rcgen's names hold one organization at most,
/// and a user may be in several groups; everything else is rcgen's.
fn with_subject(certificate: &[u8], subject: &[u8], key: &KeyPair) -> anyhow::Result<Vec<u8>> {
    let (frame, _) = content(certificate)?;
    let (signed, rest) = content(frame)?;
    let (_, after_algorithm) = content(rest)?;
    let algorithm = &rest[..rest.len() - after_algorithm.len()];
    let old = name(PLACEHOLDER, &[]);
    let at = signed
        .windows(old.len())
        .position(|window| window == old)
        .context("rcgen wrote the subject in another form: see whether its version has changed")?;
    let signed = der(SEQUENCE, &[&signed[..at], subject, &signed[at + old.len()..]]);
    let signature = key.sign(&signed).context("sign it with the CA's key")?;
    Ok(der(
        SEQUENCE,
        &[&signed, algorithm, &der(BIT_STRING, &[&[0], &signature])],
    ))
}

/// A subject: the groups, then the user.
fn name(user: &str, groups: &[String]) -> Vec<u8> {
    let part = |kind: &[u8], text: &str| {
        let pair = [der(OBJECT_ID, &[kind]), der(UTF8_STRING, &[text.as_bytes()])].concat();
        der(SET, &[&der(SEQUENCE, &[&pair])])
    };
    let mut parts: Vec<u8> = groups
        .iter()
        .flat_map(|group| part(&ORGANIZATION, group))
        .collect();
    parts.extend(part(&COMMON_NAME, user));
    der(SEQUENCE, &[&parts])
}

/// One value of DER: tag, length, content.
fn der(tag: u8, content: &[&[u8]]) -> Vec<u8> {
    let content = content.concat();
    let mut out = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = content.len().to_be_bytes();
            let from = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
            let bytes = &bytes[from..];
            // A usize has at most 8 bytes.
            out.push(0x80 | u8::try_from(bytes.len()).unwrap_or(8));
            out.extend_from_slice(bytes);
        }
    }
    out.extend(content);
    out
}

/// The content of the first value, and what follows it.
fn content(der: &[u8]) -> anyhow::Result<(&[u8], &[u8])> {
    let short = "rcgen's certificate ends too early";
    let first = usize::from(*der.get(1).context(short)?);
    let (header, length) = if first < 0x80 {
        (2, first)
    } else {
        let bytes = der.get(2..2 + (first & 0x7f)).context(short)?;
        let length = bytes.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte));
        (2 + bytes.len(), length)
    };
    let rest = der.get(header..).context(short)?;
    anyhow::ensure!(rest.len() >= length, short);
    Ok(rest.split_at(length))
}

fn pem(der: Vec<u8>) -> anyhow::Result<String> {
    let base64: String = serde_json::from_value(serde_json::to_value(ByteString(der))?)?;
    let mut out = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = more;
    }
    out.push_str("-----END CERTIFICATE-----\n");
    Ok(out)
}
