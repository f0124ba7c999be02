package files

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestNamesThatAreNotTextAreListedAndAddressed(t *testing.T) {
	work := workFolder(t)
	one, other := filepath.Join(work, "a\xffb"), filepath.Join(work, "a\xfeb")
	for path, content := range map[string]string{one: "one", other: "other"} {
		if err := os.WriteFile(path, []byte(content+" needle"), 0o666); err != nil {
			t.Skip("this file system keeps no such names: ", err)
		}
	}
	stream := newStream(t, strings.NewReader(""))
	if _, err := call(t, stream, "fs.list", fields{"path": work}); err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, each := range stream.listed("entries") {
		raw, err := base64.StdEncoding.DecodeString(each["path_base64"].(string))
		if err != nil || !strings.HasSuffix(each["path"].(string), "a\ufffdb") {
			t.Error(each, err)
		}
		found[string(raw)] = true
	}
	if !found[one] || !found[other] || len(found) != 2 {
		t.Error(found)
	}
	packed := func(path string) string { return base64.StdEncoding.EncodeToString([]byte(path)) }
	stream = newStream(t, nil)
	if _, err := call(t, stream, "fs.read", fields{"path_base64": packed(one)}); err != nil || stream.data.String() != "one needle" {
		t.Error(stream.data.String(), err)
	}
	stream = newStream(t, strings.NewReader("new"))
	if _, err := call(t, stream, "fs.write", fields{"path_base64": packed(other)}); err != nil {
		t.Error(err)
	}
	if content, _ := os.ReadFile(other); string(content) != "new" {
		t.Errorf("%q", content)
	}
	stream = newStream(t, nil)
	if _, err := call(t, stream, "fs.search", fields{"path": work, "pattern": "needle"}); err != nil {
		t.Fatal(err)
	}
	if got := stream.listed("matches"); len(got) != 1 || got[0]["path_base64"] != packed(one) {
		t.Error(got)
	}
	must(t, "fs.move", fields{"from_base64": packed(one), "to": filepath.Join(work, "readable")})
	must(t, "fs.remove", fields{"path_base64": packed(other)})
	if left := names(t, work); len(left) != 1 || left[0] != "readable" {
		t.Error(left)
	}
	entry := must(t, "fs.stat", fields{"path": filepath.Join(work, "readable")})["entry"].(map[string]any)
	if _, there := entry["path_base64"]; there {
		t.Error(entry)
	}
	_, err := do(t, "fs.stat", fields{"path_base64": "*"})
	refused(t, "bad_request", err)
	_, err = do(t, "fs.stat", fields{"path_base64": packed("../etc/passwd")})
	refused(t, "path_escapes", err)
}
