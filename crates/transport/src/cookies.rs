use http::{HeaderMap, header};

/// The values of all cookies of this name.
pub fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    let pairs = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    pairs
        .flat_map(|pairs| pairs.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(move |(own, _)| *own == name)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn they_are_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append("cookie", HeaderValue::from_static("a=b; __Host-ward-target=x; c"));
        headers.append("cookie", HeaderValue::from_static("__Host-ward-target=y;ward-target=z"));
        assert_eq!(cookies(&headers, "__Host-ward-target").collect::<Vec<_>>(), ["x", "y"]);
    }
}
