//! JSON Web Tokens (RFC 7519) that are signed here, in the compact form of RFC 7515.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use matome_model::field_error::Words;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256};
use ring::{hmac, rsa};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};

/// How a token is signed (RFC 7518, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JwtAlgorithm {
    /// RSA with SHA-256.
    Rs256,
    /// ECDSA over P-256 with SHA-256.
    Es256,
    /// HMAC with SHA-256, by a secret that both sides have.
    Hs256,
}

enum Key {
    Rsa(rsa::KeyPair),
    Ec(EcdsaKeyPair),
    Shared(hmac::Key),
}

impl JwtAlgorithm {
    pub(crate) const ALL: [(&'static str, Self); 3] =
        [("RS256", Self::Rs256), ("ES256", Self::Es256), ("HS256", Self::Hs256)];

    fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, algorithm)| *algorithm == self).map_or("", |(word, _)| word)
    }

    /// That a token can be signed with `key`.
    ///
    /// # Errors
    /// What it should be.
    pub(crate) fn check(self, key: &SecretString) -> Result<(), Words> {
        self.read(key).map(drop)
    }

    /// A token that says `claims`.
    ///
    /// # Errors
    /// When `key` is none, or can not sign.
    pub(crate) fn signed(
        self,
        key: &SecretString,
        key_id: Option<&str>,
        claims: Map<String, Value>,
    ) -> Result<String, Words> {
        let mut header =
            Map::from_iter([("alg", self.as_str()), ("typ", "JWT")].map(|(name, text)| (name.to_owned(), text.into())));
        if let Some(id) = key_id {
            header.insert("kid".to_owned(), id.into());
        }
        let to_sign = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(Value::Object(part).to_string())).join(".");
        let signature = self.read(key)?.sign(to_sign.as_bytes())?;
        Ok(format!("{to_sign}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    fn read(self, key: &SecretString) -> Result<Key, Words> {
        let text = key.expose_secret();
        match self {
            Self::Hs256 => Ok(Key::Shared(hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes()))),
            Self::Rs256 => {
                let (label, der) = pem(text).ok_or_else(no_rsa_key)?;
                let pair = match label {
                    "RSA PRIVATE KEY" => rsa::KeyPair::from_der(&der),
                    _ => rsa::KeyPair::from_pkcs8(&der),
                };
                pair.map(Key::Rsa).map_err(|_| no_rsa_key())
            }
            Self::Es256 => {
                let (_, der) = pem(text).ok_or_else(no_ec_key)?;
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &SystemRandom::new());
                pair.map(Key::Ec).map_err(|_| no_ec_key())
            }
        }
    }
}

impl Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Words> {
        let random = SystemRandom::new();
        let failed = |_| Words::new("the key can not sign", "この鍵では署名できません");
        match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map_err(failed)?;
                Ok(signature)
            }
            Self::Ec(pair) => pair.sign(&random, message).map(|signature| signature.as_ref().to_vec()).map_err(failed),
            Self::Shared(key) => Ok(hmac::sign(key, message).as_ref().to_vec()),
        }
    }
}

/// The label and the content of the first block; line breaks may be written as `\n`, as in JSON that was copied out of a file.
pub(crate) fn pem(text: &str) -> Option<(&str, Vec<u8>)> {
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once("-----END ")?;
    let body: String = body.replace("\\n", "").split_whitespace().collect();
    Some((label, STANDARD.decode(body).ok()?))
}

fn no_rsa_key() -> Words {
    Words::new(
        "It is no RSA key in PEM (`BEGIN PRIVATE KEY` or `BEGIN RSA PRIVATE KEY`) of at least 2,048 bits; an encrypted one is not read.",
        "2,048 ビット以上の RSA 鍵の PEM (`BEGIN PRIVATE KEY` か `BEGIN RSA PRIVATE KEY`) ではありません。暗号化された鍵は読めません。",
    )
}

fn no_ec_key() -> Words {
    Words::new(
        "It is no key of the curve P-256 in PEM (`BEGIN PRIVATE KEY`; `openssl pkcs8 -topk8 -nocrypt` makes that of others).",
        "曲線 P-256 の鍵の PEM (`BEGIN PRIVATE KEY`。ほかの形は `openssl pkcs8 -topk8 -nocrypt` で変換できます) ではありません。",
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_is_that_of_rfc_7515() {
        // Appendix A.1 has other spaces in its header, so the signature is compared with one that openssl made.
        let Value::Object(claims) = json!({"iss": "joe"}) else { unreachable!() };
        let token = JwtAlgorithm::Hs256.signed(&"secret".to_owned().into(), Some("1"), claims).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let decoded = |part: &str| String::from_utf8(URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
        assert_eq!(decoded(parts[0]), r#"{"alg":"HS256","kid":"1","typ":"JWT"}"#);
        assert_eq!(decoded(parts[1]), r#"{"iss":"joe"}"#);
        assert_eq!(parts[2], "vgMuIfBAdT5euvVhu61uQx-dg2DTngegyTnX5ENyZkw");
    }

    #[test]
    fn what_is_no_key_of_its_kind_is_refused() {
        for algorithm in [JwtAlgorithm::Rs256, JwtAlgorithm::Es256] {
            for text in [
                "",
                "x",
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                "-----BEGIN PRIVATE KEY-----",
            ] {
                assert!(algorithm.check(&text.to_owned().into()).is_err(), "{text}");
            }
        }
    }
}
