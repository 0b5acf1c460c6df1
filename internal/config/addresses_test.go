package config

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An allowlist says what calls of its addresses are; the deepest entry speaks. A secret is read from where the file says, and neither
// printed nor of the configuration's digest, which is public.
func TestWhatAddressesSay(t *testing.T) {
	dir := t.TempDir()
	file, secret := filepath.Join(dir, "c.yaml"), filepath.Join(dir, "key")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(file, `addresses:
  "https://deploy.example/": {reversibility: partial, idempotent: true, secret_file: key, timeout: 5s, max_answer: 2048, headers: {X-Api: hidden}}
  "https://deploy.example/status": {method: GET, read_only: true}
  "http://127.0.0.1:9000/": {private: [127.0.0.1, "fd00::/8"], name: local}
`)
	key := bytes.Repeat([]byte("k"), 32)
	write(secret, "whsec_"+base64.StdEncoding.EncodeToString(key)+"\n")
	c, err := Load(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]string{
		"https://deploy.example/east":     "POST https://deploy.example/east ring 2 idempotent true",
		"https://deploy.example/status/x": "GET https://deploy.example/status/x ring 3 idempotent false",
		"http://127.0.0.1:9000/":          "POST http://127.0.0.1:9000/ ring 1 idempotent false",
	} {
		d, err := c.Addresses.Describe(at)
		if got := fmt.Sprintf("%s ring %d idempotent %v", d.Execute, d.RequiredRing(d.Effective(0)), d.Idempotent); err != nil || got != want || !d.Network || d.Resource != strings.TrimSuffix(at, "//") {
			t.Errorf("%s: %s %v", at, got, err)
		}
	}
	rows := c.Report().Actions
	if len(rows) != 3 || rows[0].Action != "http://127.0.0.1:9000/" || rows[0].RequiredRing != 1 || rows[0].Source != file+":4:3" || rows[1].RequiredRing != 2 || rows[2].RequiredRing != 3 {
		t.Errorf("%+v", rows)
	}
	if text := fmt.Sprintf("%+v", c.Report()); strings.Contains(text, "hidden") || strings.Contains(text, string(key)) {
		t.Errorf("printed: %s", text)
	}
	write(secret, "whsec_"+base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("j"), 32)))
	other, err := Load(file, nil)
	if err != nil || other.Digest != c.Digest {
		t.Errorf("another secret makes another digest, from which one could be told: %v", err)
	}
	t.Setenv("HYPERVISOR_TEST_SECRET", base64.StdEncoding.EncodeToString(key))
	for name, want := range map[string]string{"HYPERVISOR_TEST_SECRET": "", "HYPERVISOR_TEST_NOWHERE": "the environment has no HYPERVISOR_TEST_NOWHERE"} {
		_, err := Parse("f", []byte(`addresses: {"https://h/": {secret: "${`+name+`}"}}`), &Options{Environ: os.LookupEnv})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
