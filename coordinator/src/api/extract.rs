//! Strict reading of requests: whatever is wrong is answered as problem+json that names the field.

use super::Error;
use axum::body::Bytes;
use axum::extract::path::ErrorKind;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use medley_protocol::error::Code;
use serde::de::DeserializeOwned;

/// A JSON body.
#[derive(Debug, Clone)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        expect_json(request.headers())?;
        let bytes = Bytes::from_request(request, state).await.map_err(unreadable)?;
        read_json(&bytes).map(Self)
    }
}

/// The query string.
#[derive(Debug, Clone)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        axum::extract::Query::try_from_uri(&parts.uri)
            .map(|query| Self(query.0))
            .map_err(|e| Error::new(Code::BadRequest, query_words(&e.body_text())).caused_by(e))
    }
}

/// What is wrong with a query, without what only programmers say.
fn query_words(text: &str) -> String {
    let text = text
        .strip_prefix("Failed to deserialize query string: ")
        .unwrap_or(text);
    text.replace("invalid digit found in string", "is no whole number")
}

/// The variable parts of the path.
#[derive(Debug, Clone)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        axum::extract::Path::from_request_parts(parts, state)
            .await
            .map(|path| Self(path.0))
            .map_err(|e| Error::new(Code::BadRequest, path_words(&e)).caused_by(e))
    }
}

fn path_words(rejection: &PathRejection) -> String {
    match rejection {
        PathRejection::FailedToDeserializePathParams(error) => match error.kind() {
            ErrorKind::DeserializeError { key, value, message } => format!("{key} {value:?} {message}"),
            _ => error.body_text(),
        },
        _ => rejection.body_text(),
    }
}

/// Anything else a browser could send without asking first; refusing it keeps foreign pages out.
fn expect_json(headers: &HeaderMap) -> Result<(), Error> {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = given.and_then(|value| value.split(';').next()).unwrap_or_default();
    if media_type.trim().eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let detail = "the body must be JSON, sent with the header `Content-Type: application/json`";
    Err(Error::new(Code::BadRequest, detail))
}

fn unreadable(rejection: BytesRejection) -> Error {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let detail = format!("a body may have at most {} MiB", super::MAX_BODY_BYTES >> 20);
        return Error::new(Code::TooLarge, detail);
    }
    Error::new(Code::BadRequest, "the body ended early").caused_by(rejection)
}

fn read_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|e| {
        let path = e.path().to_string();
        let error = e.into_inner();
        if error.is_data() {
            return Error::invalid(if path == "." { String::new() } else { path }, error.to_string());
        }
        Error::new(Code::BadRequest, format!("the body is not JSON: {error}"))
    })?;
    reader
        .end()
        .map_err(|e| Error::new(Code::BadRequest, format!("the body is not one JSON value: {e}")))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body as Bytestream;
    use std::collections::BTreeMap;

    type Counts = BTreeMap<String, Vec<u32>>;

    async fn read(content_type: &str, body: &str) -> Result<Counts, Error> {
        let request = Request::builder().header(CONTENT_TYPE, content_type);
        let request = request.body(Bytestream::from(body.to_owned())).unwrap();
        Body::from_request(request, &()).await.map(|body| body.0)
    }

    #[tokio::test]
    async fn a_field_of_the_wrong_type_is_named_with_its_path() {
        let error = read("application/json", r#"{"a": [1, -2]}"#).await.unwrap_err();
        assert_eq!(error.code(), Code::Invalid);
        assert!(error.to_string().contains("a[1]"), "{error}");
    }

    #[test]
    fn a_query_that_is_no_number_is_told_in_plain_words() {
        let uri = "/jobs?limit=x".parse().unwrap();
        let error = axum::extract::Query::<BTreeMap<String, u32>>::try_from_uri(&uri).unwrap_err();
        let words = query_words(&error.body_text());
        assert_eq!(words, "limit: is no whole number");
    }

    #[tokio::test]
    async fn what_is_not_one_json_value_is_refused() {
        for body in ["", "{", r#"{"a": [1]} {}"#] {
            let error = read("application/json", body).await.unwrap_err();
            assert_eq!(error.code(), Code::BadRequest, "{body:?}");
        }
        let read = read("application/json; charset=utf-8", r#" {"a": [1]} "#).await;
        assert_eq!(read.unwrap()["a"], [1]);
    }

    #[tokio::test]
    async fn a_body_that_does_not_say_it_is_json_is_refused() {
        let error = read("text/plain", r#"{"a": [1]}"#).await.unwrap_err();
        assert_eq!(error.code(), Code::BadRequest);
    }
}
