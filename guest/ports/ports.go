// Package ports runs the port.* operations of docs/guest-protocol.md.
package ports

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"callbox.dev/guest/operation"
)

const (
	chunkBytes     = 64 << 10
	dialTimeout    = 10 * time.Second
	waitDefault    = 30.0
	waitMost       = 86_400.0
	pollLeast      = 2 * time.Millisecond
	pollMost       = 50 * time.Millisecond
	portMost       = 65_535
	attemptTimeout = time.Second
)

// hosts are where a server that listens "locally" may be; forwarding never leaves the machine.
var hosts = []string{"127.0.0.1", "::1"}

// Table returns the port.* operations.
func Table() operation.Table {
	return operation.Table{"port.list": list, "port.wait": wait, "port.forward": forward}
}

type empty struct{}

func decode(request json.RawMessage, into any) error {
	if err := json.Unmarshal(request, into); err != nil {
		return operation.Fail("bad_request", err.Error())
	}
	return nil
}

func checkPort(port int) error {
	if port < 1 || port > portMost {
		return operation.Fail("bad_request", "a port is 1 to 65535")
	}
	return nil
}

func list(_ operation.Stream, _ json.RawMessage) (any, error) {
	found, err := listening("/proc")
	if err != nil {
		return nil, err
	}
	return struct {
		Ports []listener `json:"ports"`
	}{found}, nil
}

// dial connects to a port on this machine, over whichever family listens.
func dial(ctx context.Context, port int) (*net.TCPConn, error) {
	var failed error
	for _, host := range hosts {
		attempt, cancel := context.WithTimeout(ctx, attemptTimeout)
		connection, err := (&net.Dialer{}).DialContext(attempt, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		cancel()
		if err == nil {
			return connection.(*net.TCPConn), nil
		}
		failed = errors.Join(failed, err)
	}
	return nil, failed
}

func wait(stream operation.Stream, request json.RawMessage) (any, error) {
	wanted := struct {
		Port    int
		Timeout *float64 `json:"timeout_s"`
	}{}
	if err := decode(request, &wanted); err != nil {
		return nil, err
	}
	if err := checkPort(wanted.Port); err != nil {
		return nil, err
	}
	seconds := waitDefault
	if wanted.Timeout != nil {
		seconds = *wanted.Timeout
	}
	if !(seconds >= 0 && seconds <= waitMost) {
		return nil, operation.Fail("bad_request", "timeout_s is 0 to 86400")
	}
	ctx, cancel := context.WithTimeout(stream.Context(), time.Duration(seconds*float64(time.Second)))
	defer cancel()
	pause := pollLeast
	for {
		connection, err := dial(ctx, wanted.Port)
		if err == nil {
			return empty{}, connection.Close()
		}
		select {
		case <-ctx.Done():
			if stream.Context().Err() != nil {
				return nil, operation.Fail("cancelled", "the host gave up")
			}
			return nil, operation.Fail("timeout", "nothing listens on port "+strconv.Itoa(wanted.Port))
		case <-time.After(pause):
			pause = min(pause*2, pollMost)
		}
	}
}

func forward(stream operation.Stream, request json.RawMessage) (any, error) {
	wanted := struct{ Port int }{}
	if err := decode(request, &wanted); err != nil {
		return nil, err
	}
	if err := checkPort(wanted.Port); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(stream.Context(), dialTimeout)
	defer cancel()
	connection, err := dial(ctx, wanted.Port)
	if stream.Context().Err() != nil {
		if err == nil {
			connection.Close()
		}
		return nil, operation.Fail("cancelled", "the host gave up")
	}
	if err != nil {
		return nil, operation.Fail("not_found", "nothing listens on port "+strconv.Itoa(wanted.Port))
	}
	defer connection.Close()
	if err := pump(stream, connection); err != nil {
		if stream.Context().Err() != nil {
			return nil, operation.Fail("cancelled", "the host gave up")
		}
		return nil, operation.Fail("gone", "the connection broke: "+err.Error())
	}
	return empty{}, nil
}

// pump copies both ways until both ends have said that they are done; each end may finish sending before the other.
func pump(stream operation.Stream, connection *net.TCPConn) error {
	stopped := make(chan struct{})
	defer close(stopped)
	go func() {
		select {
		case <-stream.Context().Done():
			connection.Close()
		case <-stopped:
		}
	}()
	up := make(chan error, 1)
	go func() {
		err := receive(stream, connection)
		if err != nil {
			// Nothing more can be delivered: the other direction has no one to speak for.
			connection.Close()
		}
		up <- err
	}()
	down := send(stream, connection)
	if down != nil {
		connection.Close()
		// The other direction may wait for a host that says nothing. The stream ends when this operation returns.
		select {
		case err := <-up:
			return errors.Join(down, err)
		default:
			return down
		}
	}
	return <-up
}

// receive copies what the host sends, and closes that half when the host is done.
func receive(stream operation.Stream, connection *net.TCPConn) error {
	buffer := make([]byte, chunkBytes)
	for {
		count, err := stream.Read(buffer)
		if count > 0 {
			if _, failed := connection.Write(buffer[:count]); failed != nil {
				return drain(stream, buffer, failed)
			}
		}
		if errors.Is(err, io.EOF) {
			if err := connection.CloseWrite(); err != nil && !errors.Is(err, syscall.ENOTCONN) {
				return err
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// drain lets the answer of a server that stopped reading reach the host, as with any TCP client: what it would not read
// is dropped. A connection that is reset fails both ways.
func drain(stream operation.Stream, buffer []byte, failed error) error {
	if !errors.Is(failed, syscall.EPIPE) {
		return failed
	}
	for {
		if _, err := stream.Read(buffer); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// send copies what the server says, and says EOF when it is done.
func send(stream operation.Stream, connection *net.TCPConn) error {
	buffer := make([]byte, chunkBytes)
	for {
		count, err := connection.Read(buffer)
		if count > 0 {
			if failed := stream.Send(operation.Body, buffer[:count]); failed != nil {
				return failed
			}
		}
		if errors.Is(err, io.EOF) {
			return stream.End()
		}
		if err != nil {
			if errors.Is(err, os.ErrClosed) && stream.Context().Err() != nil {
				return stream.Context().Err()
			}
			return err
		}
	}
}
