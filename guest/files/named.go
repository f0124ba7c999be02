package files

import (
	"encoding/base64"
	"unicode/utf8"

	"callbox.dev/guest/operation"
)

// located is the part of a request that says where, and as whom. Names on disk are bytes, JSON is UTF-8: what is not
// UTF-8 is named by path_base64.
type located struct {
	Path, As   string
	PathBase64 *string `json:"path_base64"`
}

func (l *located) settle() error { return unpack("path_base64", l.PathBase64, &l.Path) }

// unpack puts the bytes that a request names in the place of their text.
func unpack(field string, encoded *string, into *string) error {
	if encoded == nil {
		return nil
	}
	raw, err := base64.StdEncoding.DecodeString(*encoded)
	if err != nil {
		return operation.Fail("bad_request", field+" is not base64")
	}
	*into = string(raw)
	return nil
}

// encoded is what goes beside a path that JSON cannot carry; "" if it can.
func encoded(path string) string {
	if utf8.ValidString(path) {
		return ""
	}
	return base64.StdEncoding.EncodeToString([]byte(path))
}
