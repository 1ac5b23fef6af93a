// Package certificates runs deploy/images/make-certificates, with the real command line, against an API server that knows of
// Secrets and of nothing else.
package certificates

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

type secret map[string][]byte

type cluster struct {
	t        *testing.T
	server   *httptest.Server
	account  string
	secrets  map[string]secret
	writes   []string
	forbids  string
	outpaced secret // somebody else's CA, there just before ours
}

const path = "/api/v1/namespaces/storage/secrets"

func newCluster(t *testing.T) *cluster {
	c := &cluster{t: t, account: t.TempDir(), secrets: map[string]secret{"pki-1": {}, "pki-2": {}}}
	c.server = httptest.NewTLSServer(c)
	t.Cleanup(c.server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.server.Certificate().Raw})
	for name, text := range map[string][]byte{"ca.crt": ca, "token": []byte("token"), "namespace": []byte("storage")} {
		if err := os.WriteFile(filepath.Join(c.account, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var sent struct {
		Metadata struct{ Name string }
		Data     secret
	}
	name := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, path), "/")
	answer := func(code int, message string) {
		w.WriteHeader(code)
		// As the real one: a line for each field, and what was applied last as a text within the text.
		metadata := map[string]any{"name": name, "annotations": map[string]string{"last-applied": `{"data":{"ca.crt":"AAAA"}}`}}
		text, _ := json.MarshalIndent(map[string]any{"kind": "Secret", "metadata": metadata, "data": c.secrets[name], "message": message}, "", "  ")
		w.Write(text)
	}
	held, there := c.secrets[name]
	switch {
	case r.Header.Get("Authorization") != "Bearer token":
		answer(401, "who is that?")
	case r.Method+" "+name == c.forbids:
		answer(403, "that is forbidden")
	case len(body) > 0 && json.Unmarshal(body, &sent) != nil:
		answer(400, "no JSON")
	case r.Method == http.MethodPost && c.outpaced != nil:
		c.secrets[sent.Metadata.Name] = c.outpaced
		answer(409, "it is there already")
	case r.Method == http.MethodPost && c.secrets[sent.Metadata.Name] == nil:
		c.secrets[sent.Metadata.Name] = sent.Data
		c.writes = append(c.writes, sent.Metadata.Name)
		answer(201, "")
	case r.Method == http.MethodPost:
		answer(409, "it is there already")
	case !there:
		answer(404, "not found")
	case r.Method == http.MethodPatch && r.Header.Get("Content-Type") == "application/merge-patch+json":
		for key, value := range sent.Data {
			held[key] = value
		}
		c.writes = append(c.writes, name)
		answer(200, "")
	case r.Method == http.MethodGet:
		answer(200, "")
	default:
		answer(405, "what?")
	}
}

// run makes what is missing; it returns what was written, in order, and what was said.
func (c *cluster) run(environment ...string) (writes, said string, err error) {
	c.t.Helper()
	c.writes = nil
	address := strings.Split(strings.TrimPrefix(c.server.URL, "https://"), ":")
	command := exec.Command(os.Getenv("MAKE_CERTIFICATES"), "east", "east-1=pki-1", "east-2=pki-2")
	command.Env = append(os.Environ(), "SERVICE_ACCOUNT_DIR="+c.account, "KUBERNETES_SERVICE_HOST="+address[0], "KUBERNETES_SERVICE_PORT="+address[1],
		"CA_SECRET=ca", "CREATE_CA=false", "DOMAIN=farshore.test", "DAYS=90", "RENEW_DAYS=30", "TMPDIR="+c.t.TempDir())
	command.Env = append(command.Env, environment...)
	var text bytes.Buffer
	command.Stdout, command.Stderr = &text, &text
	err = command.Run()
	return strings.Join(c.writes, " "), text.String(), err
}

func (c *cluster) must(want string, environment ...string) string {
	c.t.Helper()
	writes, said, err := c.run(environment...)
	if err != nil || writes != want {
		c.t.Fatalf("written: %q instead of %q, %v: %s", writes, want, err, said)
	}
	return said
}

func (c *cluster) refuses(words string, environment ...string) {
	c.t.Helper()
	writes, said, err := c.run(environment...)
	if err == nil || writes != "" || !strings.Contains(said, words) {
		c.t.Fatalf("written: %q, %v: %q is not in: %s", writes, err, words, said)
	}
}

func parsed(t *testing.T, text []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("no certificate: %q", text)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func (c *cluster) verify() {
	c.t.Helper()
	for name, member := range map[string]string{"pki-1": "east-1", "pki-2": "east-2"} {
		held := c.secrets[name]
		roots := x509.NewCertPool()
		roots.AddCert(parsed(c.t, held["ca.crt"]))
		node := parsed(c.t, held["tls.crt"])
		if _, err := node.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			c.t.Errorf("%s: %v", name, err)
		}
		if len(node.URIs) != 1 || node.URIs[0].String() != "spiffe://farshore.test/site/east/node/"+member {
			c.t.Errorf("%s is of %v", name, node.URIs)
		}
		if key, _ := pem.Decode(held["tls.key"]); key == nil {
			c.t.Errorf("%s has no key", name)
		}
		if len(held) != 3 {
			c.t.Errorf("%s has %d keys", name, len(held))
		}
	}
}

func TestFirstSite(t *testing.T) {
	c := newCluster(t)
	c.refuses("bring it from the site that made it")
	c.must("ca pki-1 pki-2", "CREATE_CA=true")
	c.verify()
	ca := string(c.secrets["ca"]["ca.key"])
	c.must("", "CREATE_CA=true")
	c.must("", "CREATE_CA=false")
	c.must("pki-1 pki-2", "CREATE_CA=true", "RENEW_DAYS=90")
	c.verify()
	if string(c.secrets["ca"]["ca.key"]) != ca {
		t.Error("the CA was replaced")
	}
}

func TestNewNodeAlone(t *testing.T) {
	c := newCluster(t)
	c.must("ca pki-1 pki-2", "CREATE_CA=true")
	c.secrets["pki-2"] = secret{}
	c.must("pki-2")
	// A Secret that was another node's.
	c.secrets["pki-2"] = c.secrets["pki-1"]
	c.must("pki-2")
}

func TestOtherCA(t *testing.T) {
	c, other := newCluster(t), newCluster(t)
	c.must("ca pki-1 pki-2", "CREATE_CA=true")
	other.must("ca pki-1 pki-2", "CREATE_CA=true")
	c.secrets["ca"] = other.secrets["ca"]
	c.must("pki-1 pki-2")
	c.verify()
	if !bytes.Equal(c.secrets["pki-1"]["ca.crt"], other.secrets["ca"]["ca.crt"]) {
		t.Error("not the other CA's")
	}
}

func TestLostCAIsNotReplaced(t *testing.T) {
	c := newCluster(t)
	c.must("ca pki-1 pki-2", "CREATE_CA=true")
	delete(c.secrets, "ca")
	c.refuses("put the CA back", "CREATE_CA=true")
}

func TestSomebodyElseWasFaster(t *testing.T) {
	c, other := newCluster(t), newCluster(t)
	other.must("ca pki-1 pki-2", "CREATE_CA=true")
	c.outpaced = other.secrets["ca"]
	c.must("pki-1 pki-2", "CREATE_CA=true")
	c.verify()
}

func TestRefusals(t *testing.T) {
	c := newCluster(t)
	c.secrets["ca"] = secret{"tls.crt": []byte("x")}
	c.refuses("lacks ca.crt or ca.key")
	delete(c.secrets, "ca")
	c.must("ca pki-1 pki-2", "CREATE_CA=true")
	c.forbids = "GET ca"
	c.refuses("that is forbidden")
	c.forbids = "PATCH pki-1"
	c.refuses("that is forbidden", "RENEW_DAYS=90")
	c.forbids = ""
	delete(c.secrets, "pki-1")
	c.refuses("Secret pki-1 can't be read")
	c.server.Close()
	c.refuses("does not answer")
}
