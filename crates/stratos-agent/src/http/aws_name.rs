//! How AWS clients name a function: a name, an ARN, part of an ARN, each with or without a qualifier.
//!
//! Pure. What comes in is not trusted.

use stratos_types::{FunctionName, Version};

/// Path prefix and suffix of AWS Lambda's Invoke, around the function's name.
const PREFIX: &str = "/2015-03-31/functions/";

/// True for paths of the AWS API.
pub(super) fn is_aws_path(path: &str) -> bool {
    path.starts_with(PREFIX)
}

/// A function as an AWS client named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsName {
    /// Its name here.
    pub name: FunctionName,
    /// Version, `None` for the current one.
    pub version: Option<Version>,
}

/// Why a name means no function of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AwsNameError {
    /// It is no name or ARN of a function.
    #[error("it is not the name or ARN of a function on this node")]
    Name,
    /// The qualifier is neither `$LATEST` nor a version's number.
    #[error("its qualifier is neither $LATEST nor a version's number")]
    Qualifier,
    /// Name and query each have a qualifier, and they differ.
    #[error("the qualifier in its name and the one in the query differ")]
    Conflict,
}

impl AwsName {
    /// Reads a name (percent-encoding undone) and the `Qualifier` of the query.
    ///
    /// # Errors
    /// When they mean no function or version.
    pub fn parse(text: &str, qualifier: Option<&str>) -> Result<Self, AwsNameError> {
        // arn:PARTITION:lambda:REGION:ACCOUNT:function:NAME[:Q], ACCOUNT:function:NAME[:Q], NAME[:Q]
        let parts: Vec<&str> = text.split(':').collect();
        let rest = match parts.as_slice() {
            ["arn", _, "lambda", _, _, "function", rest @ ..] => rest,
            [account, "function", rest @ ..] if account.bytes().all(|b| b.is_ascii_digit()) => rest,
            rest => rest,
        };
        let (name, own) = match rest {
            [name] => (name, None),
            [name, own] => (name, Some(*own)),
            _ => return Err(AwsNameError::Name),
        };
        let name = name.parse().map_err(|_| AwsNameError::Name)?;
        let qualifier = match (own, qualifier) {
            (Some(a), Some(b)) if a != b => return Err(AwsNameError::Conflict),
            (own, query) => own.or(query),
        };
        let version = match qualifier {
            None | Some("$LATEST") => None,
            Some(number) => {
                let digits = number.bytes().all(|b| b.is_ascii_digit());
                let number = number.parse().ok().filter(|n| digits && *n > 0);
                Some(number.ok_or(AwsNameError::Qualifier)?)
            }
        };
        Ok(Self { name, version })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_name_a_function() {
        for (text, qualifier, want) in [
            ("hello", None, Ok(None)),
            ("hello", Some("$LATEST"), Ok(None)),
            ("hello", Some("3"), Ok(Some(3))),
            ("hello:3", None, Ok(Some(3))),
            ("hello:3", Some("3"), Ok(Some(3))),
            ("hello:$LATEST", None, Ok(None)),
            ("arn:aws:lambda:local:000000000000:function:hello", None, Ok(None)),
            ("arn:aws:lambda:local:000000000000:function:hello:7", None, Ok(Some(7))),
            ("000000000000:function:hello", None, Ok(None)),
            ("000000000000:function:hello:7", None, Ok(Some(7))),
            ("function:hello:7", None, Err(AwsNameError::Name)),
            ("hello:3", Some("4"), Err(AwsNameError::Conflict)),
            ("hello:prod", None, Err(AwsNameError::Qualifier)),
            ("hello", Some("0"), Err(AwsNameError::Qualifier)),
            ("hello", Some("+1"), Err(AwsNameError::Qualifier)),
            ("hello", Some(""), Err(AwsNameError::Qualifier)),
            ("Hello", None, Err(AwsNameError::Name)),
            ("", None, Err(AwsNameError::Name)),
            ("arn:aws:s3:::hello", None, Err(AwsNameError::Name)),
            ("a:b:c:d", None, Err(AwsNameError::Name)),
        ] {
            let got = AwsName::parse(text, qualifier).map(|n| {
                assert_eq!(n.name.as_str(), "hello");
                n.version
            });
            assert_eq!(got, want, "{text} {qualifier:?}");
        }
    }
}
