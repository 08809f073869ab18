<?php
/**
 * nsfwd from PHP 8.1 or newer: one file, to be copied; it needs no extension.
 *
 *     $nsfwd = new Nsfwd();
 *     $reply = $nsfwd->scanBytes(file_get_contents($_FILES['picture']['tmp_name']));
 *     // Everything else is held: what has no score, an alarm, and a tier in between such as review.
 *     if ($nsfwd->mayPublish($reply)) { publish(); }
 *     else { hold_for_review($reply['error']['code'] ?? $reply['verdict']); }
 *
 * A reply is always an array with 'status': 'ok' (then also 'verdict', 'alarm', 'scores', ...), 'skipped', 'error' or
 * 'refused' (then 'error' has 'code' and 'message'). A daemon that cannot be reached or does not answer in time is the
 * status 'error' with the code 'unreachable' or 'silent'. Nothing is thrown. Codes: protocol.md.
 */
final class Nsfwd
{
    /** Seconds that the daemon's own reply to a deadline may take to come. */
    private const GRACE = 2.0;

    /**
     * @param string $address  tcp:HOST:PORT or unix:/path, or as PHP writes them: tcp://, unix://
     * @param float  $deadline seconds for one picture, waiting for a busy daemon included
     * @param array  $publish  verdicts to publish; if empty only 'safe', the lowest tier, and then never an alarm
     */
    public function __construct(
        private string $address = 'tcp://127.0.0.1:1235',
        private float $deadline = 10.0,
        private array $publish = [],
    ) {
        $this->address = preg_replace('#^(tcp|unix):(?!//)#', '$1://', $address);
    }

    /** Scan a file of the machine that the daemon runs on; $path is absolute. */
    public function scan(string $path): array
    {
        // base64 carries names that are not UTF-8 as well
        return $this->ask(['path_bytes' => base64_encode($path)], '');
    }

    /** Scan an encoded picture (JPEG, PNG, ...) that the daemon has no file of. */
    public function scanBytes(string $data): array
    {
        return $this->ask(['bytes' => strlen($data)], $data);
    }

    /** Whether nobody has to look at the picture first. */
    public function mayPublish(array $reply): bool
    {
        if (($reply['status'] ?? '') !== 'ok') {
            return false;
        }
        return $this->publish
            ? in_array($reply['verdict'] ?? '', $this->publish, true)
            : ($reply['verdict'] ?? '') === 'safe' && ($reply['alarm'] ?? true) === false;
    }

    private function ask(array $request, string $body): array
    {
        $until = microtime(true) + $this->deadline;
        while (true) {
            $left = max(0.1, $until - microtime(true));
            $reply = $this->once(['id' => 1, 'deadline' => $left] + $request, $body, $left + self::GRACE);
            $pause = $reply['retry_after'] ?? null;
            if ($reply['status'] !== 'refused' || $pause === null || microtime(true) + $pause >= $until) {
                return $reply;
            }
            usleep((int) ($pause * 1e6));
        }
    }

    private function once(array $request, string $body, float $seconds): array
    {
        $end = microtime(true) + $seconds;
        $socket = @stream_socket_client($this->address, $number, $message, $seconds);
        if ($socket === false) {
            return self::failed('unreachable', "no daemon at {$this->address}: $message");
        }
        stream_set_blocking($socket, false);
        $out = json_encode($request, JSON_UNESCAPED_SLASHES) . "\n" . $body;
        $in = '';
        try {
            while (true) {
                $left = $end - microtime(true);
                if ($left <= 0) {
                    return self::failed('silent', 'the daemon did not answer in time');
                }
                $read = [$socket];
                $write = $out === '' ? [] : [$socket];
                $except = null;
                if (!@stream_select($read, $write, $except, (int) $left, (int) (fmod($left, 1) * 1e6))) {
                    continue;
                }
                if ($write) {
                    $sent = @fwrite($socket, substr($out, 0, 1 << 20));
                    $out = substr($out, (int) $sent);
                }
                if (!$read) {
                    continue;
                }
                $in .= $piece = (string) fread($socket, 1 << 16);
                while (($stop = strpos($in, "\n")) !== false) {
                    $line = substr($in, 0, $stop);
                    $in = substr($in, $stop + 1);
                    if (str_starts_with($line, '{')) {
                        $reply = json_decode($line, true);
                        return isset($reply['status'])
                            ? self::checked($reply, $request)
                            : self::failed('unreachable', 'what answered is no nsfwd');
                    }
                }
                if ($piece === '' && feof($socket)) {
                    return self::failed('unreachable', 'the daemon closed the connection before it replied');
                }
            }
        } finally {
            fclose($socket);
        }
    }

    /** A directory is answered with many lines; here one picture is asked for. */
    private static function checked(array $reply, array $request): array
    {
        $path = $reply['path_bytes'] ?? base64_encode($reply['path'] ?? '');
        $other = isset($request['path_bytes']) && isset($reply['path']) && $path !== $request['path_bytes'];
        if ($reply['status'] === 'done' || $other) {
            return self::failed('is_directory', 'a directory, not a picture');
        }
        return $reply;
    }

    private static function failed(string $code, string $message): array
    {
        return ['status' => 'error', 'error' => ['code' => $code, 'message' => $message]];
    }
}

// Example: php Nsfwd.php ADDRESS DEADLINE path|bytes FILE [TIER...] says what an upload form should do with the picture:
// publish (exit code 0), hold for its verdict (1), hold because it has no score (2). TIER: a verdict to publish.
if (PHP_SAPI === 'cli' && realpath($argv[0]) === __FILE__) {
    if ($argc < 5) {
        fwrite(STDERR, "usage: php Nsfwd.php ADDRESS DEADLINE path|bytes FILE [TIER...]\n");
        exit(64);
    }
    [, $address, $deadline, $way, $file] = $argv;
    $client = new Nsfwd($address, (float) $deadline, array_slice($argv, 5));
    $reply = $way === 'bytes' ? $client->scanBytes((string) @file_get_contents($file)) : $client->scan($file);
    $publish = $client->mayPublish($reply);
    echo $publish ? 'publish ' : 'hold ', $reply['error']['code'] ?? $reply['verdict'], "\n";
    exit($publish ? 0 : ($reply['status'] === 'ok' ? 1 : 2));
}
