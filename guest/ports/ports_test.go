package ports

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"callbox.dev/guest/operation"
)

// pipeStream is a host: what it sends comes from a pipe, what it is sent goes to another.
type pipeStream struct {
	ctx  context.Context
	from *io.PipeReader
	to   *io.PipeWriter
}

func (p pipeStream) Context() context.Context   { return p.ctx }
func (p pipeStream) Read(b []byte) (int, error) { return p.from.Read(b) }
func (p pipeStream) Send(_ operation.Channel, b []byte) error {
	_, err := p.to.Write(b)
	return err
}
func (p pipeStream) End() error      { return p.to.Close() }
func (p pipeStream) Event(any) error { return nil }

func run(
	ctx context.Context, op string, request map[string]any,
) (host io.WriteCloser, guest io.Reader, result chan error) {
	toGuest, fromHost := io.Pipe()
	toHost, fromGuest := io.Pipe()
	result = make(chan error, 1)
	go func() {
		encoded, _ := json.Marshal(request)
		_, err := Table()[op](pipeStream{ctx, toGuest, fromGuest}, encoded)
		result <- err
	}()
	return fromHost, toHost, result
}

func code(t *testing.T, err error) string {
	t.Helper()
	var failed *operation.Failure
	if !errors.As(err, &failed) {
		t.Fatalf("answered %v", err)
	}
	return failed.Code
}

func serve(t *testing.T, network, address string, handle func(*net.TCPConn)) int {
	t.Helper()
	server, err := net.Listen(network, address)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { server.Close() })
	go func() {
		for {
			connection, err := server.Accept()
			if err != nil {
				return
			}
			go handle(connection.(*net.TCPConn))
		}
	}()
	return server.Addr().(*net.TCPAddr).Port
}

func TestAListenerIsListedWithItsProcess(t *testing.T) {
	for network, address := range map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"} {
		port := serve(t, network, address, func(c *net.TCPConn) { c.Close() })
		found, err := listening("/proc")
		if err != nil {
			t.Fatal(err)
		}
		host, _, _ := net.SplitHostPort(address)
		seen := false
		for _, each := range found {
			seen = seen || each.Port == port && each.Address == host && (each.PID == os.Getpid() || each.PID == 0)
		}
		if !seen {
			t.Errorf("%s port %d is not among %v", network, port, found)
		}
	}
}

func TestHalfOfAForwardedConnectionCloses(t *testing.T) {
	// The server answers only after the end of the request: without half-close nobody would ever be done.
	port := serve(t, "tcp", "127.0.0.1:0", func(c *net.TCPConn) {
		got, _ := io.ReadAll(c)
		_, _ = c.Write([]byte(strings.ToUpper(string(got))))
		c.Close()
	})
	host, guest, result := run(t.Context(), "port.forward", map[string]any{"port": port})
	body := strings.Repeat("callbox", 50_000)
	go func() {
		_, _ = io.WriteString(host, body)
		host.Close()
	}()
	answer, err := io.ReadAll(guest)
	if err != nil || string(answer) != strings.ToUpper(body) {
		t.Fatalf("%d bytes, %v", len(answer), err)
	}
	if err := <-result; err != nil {
		t.Fatal(err)
	}
}

func TestACancelledForwardEnds(t *testing.T) {
	arrived := make(chan struct{})
	port := serve(t, "tcp", "127.0.0.1:0", func(c *net.TCPConn) {
		close(arrived)
		_, _ = io.Copy(io.Discard, c)
	})
	ctx, cancel := context.WithCancel(t.Context())
	host, _, result := run(ctx, "port.forward", map[string]any{"port": port})
	defer host.Close()
	<-arrived
	cancel()
	if got := code(t, <-result); got != "cancelled" {
		t.Fatal(got)
	}
}

func TestWaitEndsWhenSomebodyListens(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	free.Close()
	_, _, result := run(t.Context(), "port.wait", map[string]any{"port": port, "timeout_s": 0.1})
	if got := code(t, <-result); got != "timeout" {
		t.Fatal(got)
	}
	_, _, result = run(t.Context(), "port.forward", map[string]any{"port": port})
	if got := code(t, <-result); got != "not_found" {
		t.Fatal(got)
	}
	_, _, result = run(t.Context(), "port.wait", map[string]any{"port": port, "timeout_s": 20})
	again, err := net.Listen("tcp", free.Addr().String())
	if err != nil {
		t.Skip(err)
	}
	defer again.Close()
	select {
	case err := <-result:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("still waiting")
	}
}

func TestImpossiblePortsAreRefused(t *testing.T) {
	for _, request := range []map[string]any{{}, {"port": 0}, {"port": 65_536}, {"port": -1}, {"port": "80"}} {
		for _, op := range []string{"port.wait", "port.forward"} {
			_, _, result := run(t.Context(), op, request)
			if got := code(t, <-result); got != "bad_request" {
				t.Fatal(got)
			}
		}
	}
	_, _, result := run(t.Context(), "port.wait", map[string]any{"port": 1, "timeout_s": -1})
	if got := code(t, <-result); got != "bad_request" {
		t.Fatal(got)
	}
}

func TestMalformedTablesAreSkipped(t *testing.T) {
	for _, line := range []string{
		"", "sl local_address", "0: 0100007F 0 0A 0 0 0 0 0 5", "0: zz:1F90 0 0A 0 0 0 0 0 5",
		"0: 0100007F:1F9000 0 0A 0 0 0 0 0 5",
	} {
		if found, ok := parse(line); ok {
			t.Errorf("%q is %v", line, found)
		}
	}
	found, ok := parse("0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4242 1")
	if !ok || found.Port != 8080 || found.Address != "127.0.0.1" || found.inode != "4242" {
		t.Errorf("%v %v", found, ok)
	}
}
