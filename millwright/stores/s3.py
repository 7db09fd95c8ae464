"""Who to ask for what is in S3, and what to say when that goes wrong.

Credentials, region and endpoint come from where AWS's own tools have them: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL and the rest.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import boto3
from botocore import exceptions
from botocore.config import Config

from millwright.endpoints import without_password
from millwright.errors import BusyError, ConfigurationError, MillwrightError
from millwright.stores.places import S3Place

# Together they make an endpoint that does not answer known within ten seconds.
PATIENCE = Config(
    connect_timeout=3, read_timeout=3, retries={"total_max_attempts": 2, "mode": "standard"}
)
CHANGED = ("PreconditionFailed", "NoSuchKey", "404", "412")
TROUBLED = ("InternalError", "ServiceUnavailable", "SlowDown", "500", "502", "503", "504")
WRONG_REGION = ("AuthorizationHeaderMalformed", "IllegalLocationConstraintException")


def client_of(place: S3Place) -> Any:
    """What talks to the endpoint of `place`; made once for each endpoint and set of variables."""
    variables = tuple(sorted(entry for entry in os.environ.items() if entry[0][:4] == "AWS_"))
    return _connected(place.endpoint, variables)


@lru_cache(maxsize=4)
def _connected(endpoint: str | None, _variables: tuple[tuple[str, str], ...]) -> Any:
    """A client, which takes 0.1 s to make, and another one when the variables have changed."""
    session = boto3.session.Session(region_name=os.environ.get("AWS_REGION") or None)
    return session.client("s3", endpoint_url=endpoint or None, config=PATIENCE)


@contextmanager
def named(place: S3Place) -> Iterator[None]:
    """Tell what goes wrong in our words, which name the place and never a key or a secret."""
    endpoint = place.endpoint or os.environ.get("AWS_ENDPOINT_URL_S3")
    endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL")
    where = f"{place} at {without_password(endpoint) if endpoint else 'AWS'}"
    try:
        yield
    except exceptions.ClientError as err:
        kind, message = _refusal(err.response["Error"]["Code"], place, where)
        raise kind(message) from err
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as err:
        raise ConfigurationError(
            f"no credentials for {where}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE"
        ) from err
    except exceptions.HTTPClientError as err:
        raise MillwrightError(
            f"cannot reach {where} ({type(err).__name__}); see that it runs, or name another "
            "endpoint with AWS_ENDPOINT_URL or the source's s3_endpoint_override"
        ) from err
    except (exceptions.BotoCoreError, ValueError) as err:
        raise ConfigurationError(
            f"cannot use {where} ({type(err).__name__}); check the name of the bucket, the "
            "endpoint, and the AWS_... variables"
        ) from err


def _refusal(code: str, place: S3Place, where: str) -> tuple[type[MillwrightError], str]:
    if code in CHANGED:
        return BusyError, f"{place} changed while it was being read; run this again"
    if code == "NoSuchBucket":
        return ConfigurationError, (
            f"there is no bucket '{place.bucket}' for {where}; make it, or correct the path of the "
            "source or its endpoint (AWS_ENDPOINT_URL)"
        )
    if code in WRONG_REGION:
        return ConfigurationError, f"{where} is in another region; set AWS_REGION"
    if code in TROUBLED:
        return MillwrightError, f"{where} is in trouble ({code}); try again later"
    return ConfigurationError, (
        f"{where} refuses ({code}); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they "
        f"allow: listing, reading and, for saved datasets, writing"
    )
