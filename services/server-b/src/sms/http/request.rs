//! The body of a request: constant parts, and the SMS's own fields at their places.

use serde_json::{Map, Value};

use crate::sms::provider::OutboundSms;

/// A place in a JSON document: the name of a field, or a JSON pointer (RFC 6901) if it begins with `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place(Vec<String>);

impl Place {
    /// Reads a name or a pointer; `None` if it is empty.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let steps: Vec<String> = match text.strip_prefix('/') {
            Some(pointer) => pointer
                .split('/')
                .map(|step| step.replace("~1", "/").replace("~0", "~"))
                .collect(),
            None => vec![text.to_owned()],
        };
        let named = steps.iter().all(|step| !step.is_empty());
        named.then_some(Self(steps))
    }

    /// What is there.
    #[must_use]
    pub fn get<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        let mut steps = self.0.iter();
        steps.try_fold(document, |at, step| match at {
            Value::Object(fields) => fields.get(step),
            Value::Array(items) => items.get(step.parse::<usize>().ok()?),
            _ => None,
        })
    }

    /// What is there as a text: a text, a number, or a truth value.
    #[must_use]
    pub fn text(&self, document: &Value) -> Option<String> {
        match self.get(document)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(truth) => Some(truth.to_string()),
            _ => None,
        }
    }

    /// Puts a value there, making the objects on the way. What is no object, nor an item of an array, is left as it is:
    /// [`Self::fits`] tells beforehand.
    pub fn put(&self, document: &mut Value, value: Value) {
        if let Some(slot) = self.slot(document) {
            *slot = value;
        }
    }

    /// Whether something can be put there.
    #[must_use]
    pub fn fits(&self, document: &Value) -> bool {
        self.slot(&mut document.clone()).is_some()
    }

    fn slot<'a>(&self, document: &'a mut Value) -> Option<&'a mut Value> {
        let mut steps = self.0.iter();
        steps.try_fold(document, |at, step| {
            if at.is_null() {
                *at = Value::Object(Map::new());
            }
            match at {
                Value::Object(fields) => Some(fields.entry(step.as_str()).or_insert(Value::Null)),
                Value::Array(items) => items.get_mut(step.parse::<usize>().ok()?),
                _ => None,
            }
        })
    }
}

/// Where the parts of an SMS go.
#[derive(Debug, Clone)]
pub struct Fields {
    /// What every body has.
    pub constant: Value,
    /// Recipient, E.164.
    pub to: Place,
    /// Sender; not written for an SMS without one.
    pub from: Place,
    /// Text.
    pub body: Place,
    /// `gsm7` or `ucs2`.
    pub encoding: Option<Place>,
    /// Number of segments.
    pub segments: Option<Place>,
}

impl Fields {
    /// The body for an SMS.
    #[must_use]
    pub fn body(&self, sms: &OutboundSms) -> Value {
        let mut body = self.constant.clone();
        self.to.put(&mut body, sms.recipient.as_str().into());
        self.body.put(&mut body, sms.body.as_str().into());
        if let Some(sender) = &sms.sender {
            self.from.put(&mut body, sender.as_str().into());
        }
        if let Some(place) = &self.encoding {
            place.put(&mut body, sms.encoding.as_str().into());
        }
        if let Some(place) = &self.segments {
            place.put(&mut body, sms.segments.into());
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn place(text: &str) -> Place {
        Place::parse(text).expect("a place")
    }

    #[test]
    fn a_body_has_the_constants_and_the_fields_at_their_places() {
        let fields = Fields {
            constant: json!({"priority": 1, "messages": [{"channel": "sms"}]}),
            to: place("/messages/0/to"),
            from: place("sender"),
            body: place("/messages/0/content/text"),
            encoding: None,
            segments: Some(place("parts")),
        };
        let mut sms = OutboundSms {
            message_id: Uuid::from_u128(1),
            user_id: 1,
            recipient: "+14155550123".to_owned(),
            sender: Some("ACME".to_owned()),
            body: "hello".to_owned(),
            encoding: "gsm7".to_owned(),
            segments: 1,
        };
        let mut expected = json!({
            "priority": 1, "sender": "ACME", "parts": 1,
            "messages": [{"channel": "sms", "to": "+14155550123", "content": {"text": "hello"}}],
        });
        assert_eq!(fields.body(&sms), expected);

        sms.sender = None;
        expected
            .as_object_mut()
            .expect("an object")
            .remove("sender");
        assert_eq!(fields.body(&sms), expected);
    }

    #[test]
    fn a_place_tells_whether_something_can_be_put_there() {
        let document = json!({"text": "x", "list": [1]});
        assert!(place("/new/deep").fits(&document));
        assert!(place("/list/0").fits(&document));
        assert!(!place("/list/1").fits(&document));
        assert!(!place("/text/deeper").fits(&document));
        for empty in ["", "/", "/a//b"] {
            assert_eq!(Place::parse(empty), None, "{empty:?}");
        }
    }

    #[test]
    fn numbers_and_truth_values_are_texts_too() {
        let document = json!({"a": {"b~c": [{"id": 7}]}, "ok": true, "none": null});
        assert_eq!(place("/a/b~0c/0/id").text(&document).as_deref(), Some("7"));
        assert_eq!(place("ok").text(&document).as_deref(), Some("true"));
        assert_eq!(place("none").text(&document), None);
        assert_eq!(place("missing").text(&document), None);
    }
}
